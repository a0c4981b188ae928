"""FREEDOM."""

from __future__ import annotations

from collections.abc import Iterator

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    EPOCH_DRAW,
    FEATURE_WIDTH,
    item_tables,
    neighbour_graphs,
    prune,
    pruned_results,
    same,
    weighted,
)
from recbole_mambarec.testing.parity.runner import Fixture


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from neighbour_graphs(model, fixture)
    yield from pruned_results(model, fixture)


ADAPTER = Adapter(
    slots=lambda model: {"user_embedding.weight": Slot("user_embedding.weight"), **item_tables()},
    unused={"feat_embed_dim": FEATURE_WIDTH, "dropout": EPOCH_DRAW},
    parts={
        "bpr": same("bpr"),
        "bpr_text": weighted("bpr_text", "reg_weight"),
        "bpr_image": weighted("bpr_image", "reg_weight"),
    },
    runs={"prune": Run(change=prune)},
    results=_results,
)
