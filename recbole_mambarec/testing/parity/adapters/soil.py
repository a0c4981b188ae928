"""SOIL."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.models.soil_graphs import symmetric_with_floor
from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import call, dense, item_tables, pair, renamed, same
from recbole_mambarec.testing.parity.runner import Fixture

_VIEWS, _USERS = "recbole_mambarec.models.views.info_nce", "recbole_mambarec.models.soil.info_nce"


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    return {
        "user_embedding.weight": Slot("user_embedding.weight"),
        **item_tables(),
        **pair("attention.0", "fusion.attention.0"),
        "attention.2.weight": Slot("fusion.attention.2.weight"),
        **pair("map_v.0", "item_gate.image"),
        **pair("map_t.0", "item_gate.text"),
    }


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    data, config = model.data, fixture.config
    interests, second = model._interest(config["interest_k"], config["second_order_k"])
    for name, graph in interests.items():
        yield f"graph/{name}_interest_raw", graph.toarray()
        yield f"graph/{name}_interest", symmetric_with_floor(graph).toarray()
        yield f"graph/{name}_knn", model._knn(name, config["knn_k"]).toarray()
        yield f"graph/{name}_item_item", dense(model.item_graph[name])
    first, first_block = dense(data.bipartite), dense(data.user_item)
    yield "graph/first_order", first
    yield "graph/first_order_user_item", first_block
    yield "graph/second_order_raw", second.toarray()
    yield "graph/second_order", 2 * (dense(model.bipartite) - first)
    yield "graph/second_order_user_item", 2 * (dense(model.user_item) - first_block)
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/user_item", dense(model.user_item)
    with torch.no_grad():
        views = model.eval()._views()
    yield "eval/side_embeddings", views.side
    yield "eval/content_embeddings", views.behaviour


ADAPTER = Adapter(
    slots=_slots,
    config=renamed(
        {
            "n_layers": "n_mm_layers",
            "knn_i": "interest_k",
            "knn_a": "second_order_k",
            "cl_loss": "cl_weight",
            "cl_loss2": "user_cl_weight",
        }
    ),
    unused={"reg_weight": "there is no L2 term", "lambda_coeff": "read without effect"},
    parts={
        "bpr": same("bpr"),
        "cl_item": call(_VIEWS, 0),
        "cl_user": call(_VIEWS, 1),
        "cl_user_content": call(_USERS, 0),
        "cl_user_side": call(_USERS, 1),
    },
    watched=(_VIEWS, _USERS),
    results=_results,
)
