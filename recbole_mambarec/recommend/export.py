"""Writes a trained model as a bundle, or its embeddings for another store."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import scipy.sparse as sp
from tqdm import tqdm

from recbole_mambarec.checkpoint import plain
from recbole_mambarec.data.fingerprint import config_data_hash
from recbole_mambarec.experiments.evaluation import Ranking
from recbole_mambarec.experiments.provenance import versions
from recbole_mambarec.recommend.arrays import write_arrays
from recbole_mambarec.recommend.fold_in import overlap
from recbole_mambarec.recommend.recommender import ModelScoring, check_scoring, over
from recbole_mambarec.scoring.restore import Restored, restore
from recbole_mambarec.value_checks import check_choice
from recbole_mambarec_common.card import read_card
from recbole_mambarec_serving import recommender as serving
from recbole_mambarec_serving.approximate import ItemIndex
from recbole_mambarec_serving.bundle import check_new_folder, lists_of, training_history, write_bundle
from recbole_mambarec_serving.ranking import BLOCK_VALUES
from recbole_mambarec_serving.scoring import Scoring, TopLists

BUNDLE, NPY, ONNX = FORMS = ("bundle", "npy", "onnx")
#: unseen items per user in the bundle of a model that ranks by neither embeddings nor weights
DEPTH = 200
_UNSTATED = "not stated"
# keys of a configuration that name places on one machine
_PLACES = ("path", "dir", "file")


def export(
    model_file: str | Path,
    out: str | Path,
    data_path: str | Path | None = None,
    *,
    form: str = BUNDLE,
    features: bool = True,
    ann: bool = False,
    metrics: bool = True,
    licence: str | None = None,
    depth: int = DEPTH,
    changed: Mapping[str, object] | None = None,
    progress: bool = True,
) -> Path:
    """Write a checkpoint or a fusion in another form, whole or not at all.

    A model that ranks by embeddings, such as nearly all of this package, gives its final embeddings; a closed form, the
    weights between its items; a fusion, those of its parts. Of any other model, the bundle has the ``depth`` best
    unseen items of each user and the scores of the seen ones.

    Args:
        model_file: the checkpoint.
        out: the folder, which must not exist.
        data_path: the folder that has the dataset's folder; None: where it was in training.
        form: ``bundle``; or ``npy`` and ``onnx`` of a model that ranks by embeddings: these as arrays, or with the
            ranking as a program for ONNX.
        ann: add an index for the approximate search of items to a bundle; its recall is in the card.
        features: keep the items' features, by which items are compared and new ones are added.
        metrics: evaluate the model on validation and test for the card.
        licence: of the model and its data, for the card; None: what the dataset's card says, if it says something.
        changed: other values of :data:`~recbole_mambarec_common.options.SCORING_KEYS` than in the training.

    Raises:
        UserError: the folder exists, the model cannot be loaded or written in this form, or a package is missing.
    """
    check_choice("format", form, FORMS)
    check_new_folder(Path(out))
    check_scoring(changed or {})
    run = restore(model_file, data_path, changed)
    live = over(run)
    scoring = live.scoring
    assert isinstance(scoring, ModelScoring)
    kept: Scoring = scoring.parts if scoring.parts is not None else _lists(live, depth, progress)
    made = serving.Recommender(
        live.name, kept, live.users, live.catalogue, live.seen, live.features if features else None
    )
    card = _card(run, made, licence)
    card["metrics"] = _metrics(run, progress) if metrics else None
    if form != BUNDLE:
        return write_arrays(out, made, card, as_onnx=form == ONNX)
    if ann:
        made.index = ItemIndex.of(made.scoring, made.name)
        card["ann"] = made.index.described(made.scoring)
    return write_bundle(out, made, card, _readme(card, made))


def _lists(live: serving.Recommender, depth: int, progress: bool) -> TopLists:
    n_users, n_items = live.seen.shape
    block = max(1, BLOCK_VALUES // n_items)
    blocks = lists_of(live.scoring, live.seen, depth, block)
    shown = tqdm(
        blocks, desc=f"Best items, {live.name}", total=math.ceil(n_users / block), delay=2, disable=not progress
    )
    return TopLists(sp.csr_array(sp.vstack(list(shown))), min(depth, n_items), live.name)


def _card(run: Restored, made: serving.Recommender, licence: str | None) -> dict[str, Any]:
    config = {k: v for k, v in run.config.final_config_dict.items() if not k.endswith(_PLACES)}
    data_card = read_card(Path(run.config["data_path"])) or {}
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "configuration": json.loads(json.dumps(plain(config), allow_nan=True), parse_constant=str),
        "trained_with": plain(run.trained_with),
        "data": {
            "dataset": str(run.config["dataset"]),
            "files": config_data_hash(run.config),
            "training": run.splits.fingerprint(),
            "interactions": {part: int(run.splits.interactions(part).nnz) for part in ("train", "valid", "test")},
        },
        "fold_in": {"by": made.scoring.fold_in_by, **overlap(made.scoring, training_history(made.seen))},
        "versions": versions() | {"platform": platform.system()},
        "licence": licence or str(data_card.get("licence") or _UNSTATED),
    }


def _metrics(run: Restored, progress: bool) -> dict[str, Any]:
    ranking = Ranking(run.splits, run.scorer, progress)
    return {"valid": ranking.valid(), "test": ranking.test()[0]}


def _readme(card: dict[str, Any], made: serving.Recommender) -> str:
    """The card for people, in Markdown."""
    numbers = card["metrics"] or {}
    lines = [
        f"# {made.name} on {card['data']['dataset']}",
        "",
        f"Recommendations for {len(made.users)} users from {len(made)} items, exported on {card['created'][:10]}.",
        "",
        "```python",
        "from recbole_mambarec_serving import Recommender  # neither torch nor RecBole is needed",
        "",
        'rec = Recommender.load(".")',
        f'rec.recommend("{made.users.tokens[0]}", k={min(20, len(made))})',
        "```",
        "",
        f"* Scores come from {_FROM[made.scoring.kind]}.",
        *([f"* {_other_values(card)}."] if card["trained_with"] else []),
        f"* New users: {_new_users(card, made)}.",
        f"* Licence: {card['licence']}.",
    ]
    if "ann" in card:
        lines.append(f"* Approximate search finds {card['ann']['recall@20']:.1%} of the exact 20 (`approximate=True`).")
    if numbers:
        lines += ["", "| split | " + " | ".join(numbers["valid"]) + " |", "|---|" + "---:|" * len(numbers["valid"])]
        rows = {"validation": numbers["valid"], **{f"test, mask {m}": v for m, v in numbers["test"].items()}}
        lines += [f"| {name} | " + " | ".join(f"{v:.4f}" for v in row.values()) + " |" for name, row in rows.items()]
    lines += ["", "Everything else, such as the configuration, is in `card.json`.", ""]
    return "\n".join(lines)


_FROM = {
    "embeddings": "inner products of embeddings",
    "item_weights": "weights between items, summed over the items of a user",
    "lists": "lists of the best items of each user, which were made when the bundle was written",
    "fusion": "a weighted sum of the normalised scores of several models",
}


def _other_values(card: dict[str, Any]) -> str:
    config, before = card["configuration"], card["trained_with"]
    now = ", ".join(f"{key}: {config[key]}" for key in before)
    return f"Scored with {now}; trained with {', '.join(f'{key}: {value}' for key, value in before.items())}"


def _new_users(card: dict[str, Any], made: serving.Recommender) -> str:
    fold_in = card["fold_in"]
    if fold_in["by"] is None:
        return "unknown to this bundle"
    return f"{fold_in['by']}; known users folded in by their own training items share " + (
        f"{fold_in['overlap@20']:.0%} of the first 20 items with their own lists ({fold_in['users']} users)"
    )
