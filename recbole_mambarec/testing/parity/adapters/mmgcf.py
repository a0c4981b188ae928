"""MMGCF. The published code registers all of its joining layers; ours has those that its form needs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    EPOCH_DRAW,
    dense,
    item_tables,
    pair,
    renamed,
    same,
    weighted,
)
from recbole_mambarec.testing.parity.runner import Fixture


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {"user_embedding.weight": Slot("user_embedding.weight"), **item_tables()}
    slots["mm_alpha"] = Slot("alpha") if model.alpha is not None else None
    ours = {}
    if model.join_items is not None:
        ours = {"id_mm_concat_layer" if model.join_features is not None else "all_concat_layer": "join_items"}
    if model.join_features is not None:
        ours["mm_concat_layer"] = "join_features"
    for name in ("all_concat_layer", "mm_concat_layer", "id_mm_concat_layer"):
        slots |= pair(name, ours[name]) if name in ours else {f"{name}.{part}": None for part in ("weight", "bias")}
    return slots


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    for key in fixture.keys("fusion/"):
        weighting, mode = key.removeprefix("fusion/").split("_")
        other = fixture.build(weighting=weighting, fusion_mode=mode).eval()
        with torch.no_grad():
            yield key, other.embed()[1]


ADAPTER = Adapter(
    slots=_slots,
    config=renamed({}),
    unused={"dropout": EPOCH_DRAW},
    parts={"bpr": same("bpr"), "reg": weighted("reg", "reg_weight")},
    results=_results,
)
