"""Results per user: collected in RecBole's own evaluation, kept in a small Parquet file, analysed by group.

The file has one row per evaluated user (for a sequential model, per test interaction). With M a mask
(:data:`~recbole_mambarec.experiments.store.MASKS`), m a metric (``recall``, ``ndcg``, ``hit``) and k a cut-off:

===================  =================================================================================================
``user``             token
``train``            number of training interactions
``M:m@k``            value of the metric for this user; the mean of the column is what RecBole reports
``items``            list: tokens of the test items, which the following lists are parallel to
``popularity``       list: training interactions of each item
``has:<modality>``   list: the item has the modality (prepared datasets)
``M:rank``           list: the item's rank, from 1; null below the largest cut-off
===================  =================================================================================================

Buckets are quantiles: with ``count=4``, each has a quarter of the values. Equal values stay in one bucket, so that
there can be fewer buckets than requested, of unequal size. The limits depend on the data only, not on the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from recbole.evaluator.register import metrics_dict

from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.folder import item_tokens, modality_files
from recbole_mambarec.data.missing import hidden_in_folder
from recbole_mambarec.data.modality import Modality
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_file

if TYPE_CHECKING:
    import polars

METRICS = ("recall", "ndcg", "hit")


# ------------------------------------------------------------------------------------------------------------
# from the evaluation to a table


@dataclass(frozen=True)
class TopK:
    """The recommendations of one evaluation, one row per evaluated user in the order of the loader.

    Attributes:
        items: internal ids of the recommended items, best first, ``(U, K)``.
        hits: bool ``(U, K)``: the item is a test item of the user.
        positives: number of the user's test items, ``(U,)``.
    """

    items: np.ndarray
    hits: np.ndarray
    positives: np.ndarray


@contextlib.contextmanager
def captured(trainer) -> Iterator[list[TopK]]:
    """Collect the :class:`TopK` of each ``trainer.evaluate`` inside the block, as RecBole's own metrics see it.

    Nothing is collected if the metrics do not rank (AUC, log loss).
    """
    collected: list[TopK] = []
    evaluator, register = trainer.evaluator, trainer.eval_collector.register
    original, outer = evaluator.evaluate, vars(evaluator).get("evaluate")
    with_items = register.need("rec.items")

    def evaluate(struct):
        if "rec.topk" in struct:
            matrix = struct["rec.topk"].numpy()
            collected.append(TopK(struct["rec.items"].numpy(), matrix[:, :-1].astype(bool), matrix[:, -1]))
        return original(struct)

    # the register has one attribute per kind of data that some metric needs
    setattr(register, "rec.items", register.need("rec.topk") or with_items)
    evaluator.evaluate = evaluate
    try:
        yield collected
    finally:
        del evaluator.evaluate
        if outer is not None:
            evaluator.evaluate = outer
        setattr(register, "rec.items", with_items)


def table(train, loader, tops: dict[str, TopK], config) -> polars.DataFrame:
    """The table that this module's docstring describes.

    Args:
        train: RecBole's dataset of the training split.
        loader: the test loader that was evaluated.
        tops: mask -> recommendations.
        config: RecBole's configuration.

    Raises:
        UserError: polars is not installed.
    """
    pl = need("polars", "compare")
    evaluated, rows, items = test_pairs(loader)
    active = np.bincount(train.inter_feat[train.uid_field].numpy(), minlength=train.user_num)
    popular = np.bincount(train.inter_feat[train.iid_field].numpy(), minlength=train.item_num)
    tokens = {field: np.asarray(train.field2id_token[field]) for field in (train.uid_field, train.iid_field)}

    columns = {
        "user": tokens[train.uid_field][evaluated].astype(str),
        "train": active[evaluated].astype(np.uint32),
    }
    lists = {
        "row": rows.astype(np.uint32),
        "items": tokens[train.iid_field][items].astype(str),
        "popularity": popular[items].astype(np.uint32),
    }
    for modality, present in _presence(train).items():
        lists[f"has:{modality}"] = present[items]
    for mask, top in tops.items():
        for metric in METRICS:
            values = metric_of(metric, config, top)
            columns |= {f"{mask}:{metric}@{k}": values[:, k - 1].astype(np.float32) for k in config["topk"]}
        lists[f"{mask}:rank"] = _ranks(rows, items, top, train.item_num)
    per_pair = pl.DataFrame(lists).with_columns(pl.col("^.*:rank$").replace(0, None))
    per_user = pl.DataFrame(columns).with_row_index("row")
    joined = per_user.join(per_pair.group_by("row").agg(pl.all()), on="row", how="left", maintain_order="left")
    return joined.drop("row")


def of_items(top: TopK, loader, chosen: np.ndarray) -> TopK:
    """The same recommendations where only some items are to be found, for the users that have such a test item.

    Args:
        top: of the users of ``loader``.
        chosen: the items, bool ``(item_num,)``.
    """
    _, rows, items = test_pairs(loader)
    positives = np.bincount(rows[chosen[items]], minlength=len(top.positives))
    those = positives > 0
    return TopK(top.items[those], top.hits[those] & chosen[top.items[those]], positives[those])


def test_pairs(loader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the evaluated users, row and item of each test interaction), all as internal ids; pairs are distinct."""
    test = loader._dataset
    users, items = test.inter_feat[test.uid_field].numpy(), test.inter_feat[test.iid_field].numpy()
    if not hasattr(loader, "uid_list"):
        return users, np.arange(len(users)), items
    # in ascending order
    evaluated = np.asarray(loader.uid_list)
    rows, items = np.unique(np.stack([np.searchsorted(evaluated, users), items]), axis=1)
    return evaluated, rows, items


def metric_of(name: str, config, top: TopK) -> np.ndarray:
    """RecBole's metric for each user at each cut-off from 1 to K, ``(U, K)``."""
    metric = metrics_dict[name](config)
    return metric.metric_info(top.hits) if name == "hit" else metric.metric_info(top.hits, top.positives)


def _ranks(rows: np.ndarray, items: np.ndarray, top: TopK, n_items: int) -> np.ndarray:
    """Rank from 1 of each (row, item) pair, 0 if it was not recommended; pairs are sorted by row, then item."""
    ranks = np.zeros(len(rows), dtype=np.uint16)
    hit_rows, positions = np.nonzero(top.hits)
    hits = hit_rows.astype(np.int64) * n_items + top.items[hit_rows, positions]
    ranks[np.searchsorted(rows.astype(np.int64) * n_items + items, hits)] = positions + 1
    return ranks


def _presence(dataset) -> dict[str, np.ndarray]:
    """Modality -> bool per internal item id: the item has it; for all modalities with arrays in the folder.

    What ``missing_modalities`` hides counts as lacking, whatever a model has put in its place.
    """
    folder, name = Path(dataset.dataset_path), dataset.dataset_name
    arrays = modality_files(folder, name)
    ids = item_tokens(folder / f"{name}.item", Layout.of(dataset.config)) if arrays else None
    mask = hidden_in_folder(dataset.config, folder, name)
    presence = {}
    for modality, path in arrays.items():
        # a row is NaN throughout or nowhere, which is checked where a model reads the array
        missing = np.isnan(Modality.load(modality, path, ids).matrix[:, 0])
        if mask is not None:
            missing |= mask[modality]
        lacking = set(ids[missing])
        presence[modality] = np.array([token not in lacking for token in dataset.field2id_token[dataset.iid_field]])
    return presence


def write(path: str | Path, frame: polars.DataFrame) -> None:
    """Write the table as Parquet, whole or not at all."""
    with atomic_file(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", compression_level=15)


# ------------------------------------------------------------------------------------------------------------
# from the table to groups


@dataclass(frozen=True)
class Bucket:
    """Mean result of a group of users, or share of a group of test interactions that was recommended.

    Attributes:
        name: e.g. ``5-8`` (limits included), ``with image``.
        count: users, or test interactions, in the group.
        value: mean of the metric over them.
    """

    name: str
    count: int
    value: float


def read(path: str | Path) -> polars.DataFrame:
    """The table of one run.

    Raises:
        UserError: polars is not installed, or there is no such table.
    """
    pl = need("polars", "compare")
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"results per user not found: there is no file {path}") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as Parquet ({reason}): delete it and repeat the run") from None
    if not {"user", "train", "items", "popularity"} <= set(frame.columns):
        raise UserError(f"{path} does not hold results per user: its columns are {', '.join(frame.columns)}")
    return frame


def values(frame: polars.DataFrame, mask: str, metric: str) -> np.ndarray:
    """A metric (``recall@20``) of every user, float64 ``(U,)``.

    Raises:
        UserError: the table has no such column.
    """
    name = f"{mask}:{metric.lower()}"
    if name not in frame.columns:
        have = ", ".join(column for column in frame.columns if "@" in column)
        raise UserError(f"the results per user have no column '{name}': they have {have}")
    return frame[name].to_numpy().astype(np.float64)


def by_activity(frame: polars.DataFrame, mask: str, metric: str, count: int = 4) -> list[Bucket]:
    """Mean of a metric by the users' number of training interactions."""
    return _by_quantile(frame["train"].to_numpy(), values(frame, mask, metric), count)


def by_popularity(frame: polars.DataFrame, mask: str, k: int, count: int = 4) -> list[Bucket]:
    """Share of test interactions in the top k by the item's number of training interactions.

    The buckets are quantiles over test interactions, so that all have about as many.
    """
    popularity, found = _pairs(frame, mask, k, "popularity")
    return _by_quantile(popularity, found, count)


def by_modality(frame: polars.DataFrame, mask: str, k: int) -> list[Bucket]:
    """Share of test interactions in the top k, for items with and without each modality; no empty groups."""
    buckets = []
    for column in frame.columns:
        if column.startswith("has:"):
            present, found = _pairs(frame, mask, k, column)
            for word, chosen in (("with", present), ("without", ~present)):
                if chosen.any():
                    name = f"{word} {column.removeprefix('has:')}"
                    buckets.append(Bucket(name, int(chosen.sum()), float(found[chosen].mean())))
    return buckets


def by_newness(frame: polars.DataFrame, mask: str, metric: str) -> list[Bucket]:
    """A metric of all test items, those with training interactions and those without; counts are users with such.

    Each is the mean over the users that have such a test item, as if these were all of their test items.
    """
    pl = need("polars", "compare")
    name, _, cutoff = metric.lower().partition("@")
    k = int(cutoff)
    popularity, _ = _pairs(frame, mask, k, "popularity")
    rows = np.repeat(np.arange(len(frame)), frame["popularity"].list.len().to_numpy())
    ranks = frame.select(pl.col(f"{mask}:rank").explode())[f"{mask}:rank"].fill_null(0).to_numpy().astype(np.int64)
    found = (ranks > 0) & (ranks <= k)
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    buckets = []
    for title, chosen in (("all", popularity >= 0), ("known", popularity > 0), ("new", popularity == 0)):
        if not chosen.any():
            continue
        positives = np.bincount(rows[chosen], minlength=len(frame))
        hits = np.bincount(rows[chosen & found], minlength=len(frame))
        gained = np.bincount(rows[chosen & found], gains[ranks[chosen & found] - 1], minlength=len(frame))
        those = positives > 0
        if name == "recall":
            value = hits[those] / positives[those]
        elif name == "hit":
            value = (hits[those] > 0).astype(np.float64)
        else:
            value = gained[those] / np.cumsum(gains)[np.minimum(positives[those], k) - 1]
        buckets.append(Bucket(title, int(those.sum()), float(value.mean())))
    return buckets


def _pairs(frame: polars.DataFrame, mask: str, k: int, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A list column and whether the item is in the top k, one entry per test interaction."""
    values(frame, mask, f"hit@{k}")  # raises if k is beyond the largest cut-off, where ranks are unknown
    pairs = frame.select(column, f"{mask}:rank").explode(column, f"{mask}:rank")
    rank = pairs[f"{mask}:rank"].fill_null(0).to_numpy()
    return pairs[column].to_numpy(), ((rank > 0) & (rank <= k)).astype(np.float64)


def _by_quantile(key: np.ndarray, value: np.ndarray, count: int) -> list[Bucket]:
    """Mean of ``value`` in quantile buckets of the whole numbers ``key``."""
    limits = np.unique(np.quantile(key, np.arange(1, count) / count, method="inverted_cdf"))
    number = np.searchsorted(limits, key)
    buckets = []
    for bucket in np.unique(number):
        chosen = number == bucket
        low, high = key[chosen].min(), key[chosen].max()
        name = f"{low}" if low == high else f"{low}-{high}"
        buckets.append(Bucket(name, int(chosen.sum()), float(value[chosen].mean())))
    return buckets
