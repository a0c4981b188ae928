"""The keys ``new_items`` and ``rank_items``: items that training does not know, and their ranking.

The training interactions of new items are left out of the split. The items stay in the catalogue, hence in the graphs
over features and in the ranking, and training does not draw them as negatives, as nobody knows of them yet. Whatever
has no training interaction counts as new in an evaluation, whether it was named, drawn, or is new by the split.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timezone
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.sampler import Sampler

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.fingerprint import hashed_file
from recbole_mambarec.data.folder import item_tokens
from recbole_mambarec.data.missing import is_numbered
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.files import what_it_is
from recbole_mambarec_common.ids import mismatch
from recbole_mambarec_common.masks import DEFAULT_SEED, ids_of_numbers, popularity_groups, read_numbers

#: values of ``rank_items``
RANKED = ("all", "new")
#: attribute of a split: which items have no training interaction, bool ``(item_num,)``; only where ``new_items`` is set
NEW = "items_without_training"


def install() -> None:
    """Wrap RecBole's split and its sampler; a second call changes nothing."""
    wrap(Dataset, "build", _build)
    wrap(Sampler, "_uni_sampling", _draw_known_items)


# ------------------------------------------------------------------------------------------------------------
# the value of the key


def accept(value: object, folder: Path) -> object:
    """The value of the key in the form in which it is recorded, so that equal choices have equal values.

    Args:
        value: a share, the path of a list (here or in the dataset's folder), or a mapping with one of these or with
            ``since``.
        folder: of the dataset.

    Raises:
        UserError: there is no such file, its contents are not those whose hash is given, or a date cannot be read.
    """
    if value is None or isinstance(value, (int, float)):
        return value
    given = dict(value) if isinstance(value, Mapping) else {"file": os.fspath(value)}  # type: ignore[call-overload]
    if "share" in given:
        seed = given.get("seed")
        return given["share"] if seed in (None, DEFAULT_SEED) else {"share": given["share"], "seed": seed}
    if "since" in given:
        return {"since": _seconds(given["since"])}
    return hashed_file("new_items", given, folder)


def _seconds(value: object) -> float:
    """A date as seconds since 1970 in UTC; numbers are such seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else str(value))
    except ValueError:
        raise UserError(
            f"new_items: since must be a date such as 2014-05-01 or seconds since 1970, got {value!r}"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def read_items(path: Path, items: Sequence[str], numbered: bool) -> set[str]:
    """The ids that a list names: one per line, the first column of a table, or ``items`` of a ``.npz``.

    A table has a first line that begins with ``item_id``, and commas or tabs between its columns.

    Args:
        items: ids of the catalogue.
        numbered: whether rows of the ``.item`` file are in the order of the published numbers.

    Raises:
        UserError: the file cannot be read, or names items that do not exist.
    """
    if path.suffix == ".npz":
        arrays = read_numbers(path, "new_items")
        if "items" not in arrays:
            raise UserError(f"{path} has no array 'items' with the numbers of new items")
        return set(ids_of_numbers(path, arrays["items"], items, numbered))
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a list of items but {what_it_is(path) or 'no text in UTF-8'}") from None
    named = dict.fromkeys(_ids_of_lines([line.strip("\r") for line in lines if line.strip()]))
    listed = set(items)
    unknown = [item for item in named if item not in listed]
    if unknown:
        raise UserError(
            mismatch(list(named), listed, "item", str(path), "the dataset")
            or f"{path} names {len(unknown)} items that the dataset does not have, e.g. '{unknown[0]}': remove them"
        )
    return set(named)


def _ids_of_lines(lines: list[str]) -> list[str]:
    separator = "\t" if lines and "\t" in lines[0] else ","
    header = lines[0].split(separator)[0].partition(":")[0].strip(' "') if lines else ""
    if header == "item_id":
        return [row[0].strip() for row in csv.reader(lines[1:], delimiter=separator) if row]
    # an id may contain a comma
    ids = [line.strip() for line in lines]
    return [each[1:-1].replace('""', '"') if each[:1] == each[-1:] == '"' and len(each) > 1 else each for each in ids]


def _chosen(value: object, dataset: Dataset, training: Dataset) -> np.ndarray:
    """Which items the key names, bool ``(item_num,)``."""
    items = training.inter_feat[dataset.iid_field].numpy()
    if isinstance(value, Mapping) and "file" in value:
        return _listed(Path(hashed_file("new_items", value, Path(dataset.dataset_path))["file"]), dataset)
    if isinstance(value, Mapping) and "since" in value:
        return _first_seen_since(value["since"], dataset)
    share, seed = (value["share"], value["seed"]) if isinstance(value, Mapping) else (value, DEFAULT_SEED)
    groups = popularity_groups(np.bincount(items, minlength=dataset.item_num)[1:])
    rng, chosen = np.random.default_rng(seed), np.zeros(dataset.item_num, dtype=bool)
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        chosen[1 + members[: round(share * len(members))]] = True  # type: ignore[operator]
    return chosen


def _listed(path: Path, dataset: Dataset) -> np.ndarray:
    folder, name = Path(dataset.dataset_path), dataset.dataset_name
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    item_file = folder / f"{name}.item"
    listed = item_tokens(item_file, Layout.of(dataset.config)).tolist() if item_file.is_file() else tokens[1:]
    named = read_items(path, [str(item) for item in listed], is_numbered(folder))
    return np.array([token in named for token in tokens]) & (np.arange(len(tokens)) > 0)


def _first_seen_since(seconds: float, dataset: Dataset) -> np.ndarray:
    interactions = dataset.inter_feat
    if dataset.time_field is None or dataset.time_field not in interactions:
        raise UserError(
            "new_items: since needs timestamps, and the interactions are read without any: add their column to the "
            "dataset and to load_col, or name the items"
        )
    times = getattr(interactions, "times", None)
    times = (interactions[dataset.time_field] if times is None else times).numpy().astype(np.float64)
    first = np.full(dataset.item_num, -np.inf)
    items = interactions[dataset.iid_field].numpy()
    first[np.unique(items)] = np.inf
    np.minimum.at(first, items, times)
    return first >= seconds


# ------------------------------------------------------------------------------------------------------------
# the split


def _build(original: Callable, self: Dataset):
    parts = original(self)
    value = self.config["new_items"]
    if value is None:
        if self.config["rank_items"] == "new":
            raise UserError("rank_items 'new' ranks new items alone: say which they are with new_items")
        return parts
    training, *held_out = parts
    items = training.inter_feat[self.iid_field].numpy()
    chosen = _chosen(value, self, training)
    kept = ~chosen[items]
    if not chosen.any():
        raise UserError("new_items names no item of the dataset: give a larger share, an earlier date or another list")
    if not kept.any():
        raise UserError("new_items leaves no training interaction: give a smaller share, a later date or fewer items")
    users = training.inter_feat[self.uid_field].numpy()
    lost = len(np.unique(users)) - len(np.unique(users[kept]))
    training = training.copy(training.inter_feat[torch.from_numpy(np.flatnonzero(kept))])
    getLogger().info(
        f"new_items: {int(chosen.sum())} items, without whose {int((~kept).sum())} of {len(kept)} interactions the "
        "model is trained"
    )
    if lost:
        getLogger().warning(
            f"new_items leaves {lost} users without training interactions, of whom a model knows nothing: "
            "cold_users=popularity ranks the most popular items for them, cold_users=features those of similar users"
        )
    new = np.bincount(items[kept], minlength=self.item_num) == 0
    new[0] = False
    if self.config["rank_items"] == "new":
        held_out = [_only(new, part, self.iid_field) for part in held_out]
    parts = [training, *held_out]
    for part in parts:
        setattr(part, NEW, new)
    return parts


def _only(new: np.ndarray, part: Dataset, field: str) -> Dataset:
    """A part of the split with the interactions of new items alone."""
    kept = np.flatnonzero(new[part.inter_feat[field].numpy()])
    if len(kept) == 0:
        raise UserError("rank_items 'new' leaves nothing to evaluate: no held-out interaction is with a new item")
    return part.copy(part.inter_feat[torch.from_numpy(kept)])


def _draw_known_items(original: Callable, sampler: Sampler, sample_num: int) -> np.ndarray:
    """Uniform draws, in training only of items that have training interactions."""
    new = getattr(sampler.datasets[0], NEW, None)
    if new is None or getattr(sampler, "phase", None) != "train":
        return original(sampler, sample_num)
    known = vars(sampler).get("_known_items")
    if known is None:
        known = sampler._known_items = np.flatnonzero(~new[1:]) + 1
    # RecBole samples from numpy's global generator
    return known[np.random.randint(0, len(known), sample_num)]  # noqa: NPY002


def combination_fault(final: Mapping) -> str | None:
    """A sentence about keys that do not go together with these, or None."""
    if final.get("new_items") is None:
        return None
    if final["MODEL_TYPE"].name == "SEQUENTIAL":
        return f"new_items has no effect on {final['model']}, which reads sequences: leave it out"
    sampling = final.get("train_neg_sample_args") or {}
    if isinstance(sampling, Mapping) and sampling.get("distribution") == "popularity":
        return (
            "train_neg_sample_args: negatives by popularity would include new items, whose popularity training must "
            "not know: use the distribution uniform"
        )
    modes = final["eval_args"]["mode"]
    if final.get("rank_items") == "new" and set(modes.values()) != {"full"}:
        return "rank_items 'new' ranks all new items: use it with eval_args['mode'] full"
    return None


def items_without_training(dataset: object) -> np.ndarray | None:
    """The attribute :data:`NEW` of a part of a split, None where ``new_items`` is unset."""
    return getattr(dataset, NEW, None)
