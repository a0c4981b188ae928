"""SLMRec. Published scores are the sigmoid of ours; the files have no modality for its head for sound."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import dense, pair, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture

_KEYS = {
    "recdim": "embedding_size",
    "layer_num": "n_ui_layers",
    "temp": "temperature",
    "ssl_alpha": "ssl_weight",
    "ssl_temp": "ssl_temperature",
}


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "embedding_user.weight": Slot("user_embedding.weight"),
        "embedding_item.weight": Slot("item_embedding.weight"),
        "g_a_iva.weight": None,
        "g_a_iva.bias": None,
    }
    for published, ours in {
        "v_dense": "projection.image",
        "t_dense": "projection.text",
        "embedding_user_after_GCN": "join_users",
        "embedding_item_after_GCN": "join_items",
        "g_i_iv": "chain.0",
        "g_iv_iva": "chain.1",
        "g_iva_ivat": "chain.2",
        "g_v_iv": "head.image",
        "g_t_ivat": "head.text",
    }.items():
        slots |= pair(published, ours)
    return slots


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)


ADAPTER = Adapter(
    config=renamed(_KEYS),
    unused={
        "embedding_size": "the width is recdim",
        "ssl_task": "FAC is the only task here",
        "mm_fusion_mode": "the released form concatenates",
        "init": "parameters are given",
        "adj_type": "the released form has no other",
    },
    slots=_slots,
    results=_results,
    scores=torch.sigmoid,
    parts={
        "main": same("main"),
        "ssl_image": weighted("ssl_image", "ssl_weight"),
        "ssl_text": weighted("ssl_text", "ssl_weight"),
    },
)
