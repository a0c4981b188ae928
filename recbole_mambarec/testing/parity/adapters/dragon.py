"""DRAGON."""

from __future__ import annotations

from collections.abc import Iterator

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter
from recbole_mambarec.testing.parity.adapters.branches import (
    BRANCH_PARTS,
    WIDTH,
    branch_config,
    branch_results,
    branch_slots,
    take_drawn_users,
)
from recbole_mambarec.testing.parity.adapters.common import FEATURE_WIDTH, neighbour_graphs
from recbole_mambarec.testing.parity.adapters.drawn_users import user_graph_results
from recbole_mambarec.testing.parity.runner import Fixture

_UNUSED = ("MLP_v", "MLP_t", "MLP_user", "weight_i", "image_trs", "text_trs", "image_embedding", "text_embedding")


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from neighbour_graphs(model, fixture)
    yield from branch_results(model)
    yield from user_graph_results(model, fixture)


ADAPTER = Adapter(
    slots=lambda model: branch_slots(model, *_UNUSED),
    config=branch_config,
    unused={
        "embedding_size": WIDTH,
        "feat_embed_dim": FEATURE_WIDTH,
        "n_layers": "always two hops",
        "aggr_mode": "the published grid adds",
    },
    parts=BRANCH_PARTS,
    results=_results,
    prepare=take_drawn_users,
)
