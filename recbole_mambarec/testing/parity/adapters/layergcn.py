"""LayerGCN."""

from __future__ import annotations

from collections.abc import Iterator

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import EPOCH_DRAW, dense, prune, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    prune(model, fixture)
    yield "prune/graph", dense(model.training_graph)


ADAPTER = Adapter(
    slots=lambda model: {f"{side}_embeddings": Slot(f"{side}_embedding.weight") for side in ("user", "item")},
    config=renamed({"n_layers": "n_ui_layers"}),
    unused={"dropout": EPOCH_DRAW},
    parts={"bpr_sum": same("bpr"), "reg": weighted("reg", "reg_weight")},
    runs={"prune": Run(change=prune)},
    results=_results,
)
