"""BM3. The files record dropout for whole tables, where our model draws it for the rows of the batch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    FEATURE_WIDTH,
    call,
    dense,
    item_tables,
    masks,
    pair,
    renamed,
    weighted,
)
from recbole_mambarec.testing.parity.runner import Fixture

_DISTANCE = "recbole_mambarec.models.bm3.cosine_distance"
# in the order in which our model computes them
_TERMS = ("user_item", "item_user", "image_item", "image_image", "text_item", "text_text")


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    return {"user_embedding.weight": Slot("user_embedding.weight")} | item_tables() | pair("predictor", "predictor")


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    with torch.no_grad():
        users, items = model._online()
    yield "eval/online_user_embeddings", users
    yield "eval/online_item_embeddings", items


ADAPTER = Adapter(
    slots=_slots,
    config=renamed({"dropout": "dropout_prob", "n_layers": "n_ui_layers"}),
    unused={"feat_embed_dim": FEATURE_WIDTH},
    parts={name: call(_DISTANCE, number) for number, name in enumerate(_TERMS)}
    | {"reg": weighted("reg", "reg_weight")},
    watched=(_DISTANCE,),
    runs={
        "dropout": masks(
            "item", "user", "image", "text", rows={"item": "pos", "user": "users", "image": "pos", "text": "pos"}
        )
    },
    results=_results,
)
