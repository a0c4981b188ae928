"""CRANE as released. Its image map and the map to the width of the attention are one chain per modality in ours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    EPOCH_DRAW,
    dense,
    pair,
    prune,
    pruned_results,
    renamed,
    same,
)
from recbole_mambarec.testing.parity.runner import Fixture

_MODULE, _INNER = "cross_modal_attention", {"image": "visual_proj", "text": "textual_proj"}


def _config(published: dict) -> dict:
    config = renamed({"knn_k": "n_neighbors"}, variant="released", freeze_features=False)(published)
    # their lists of neighbours begin with the item itself
    return config | {"n_neighbors": config["n_neighbors"] - 1}


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        f"{_MODULE}.attention.in_proj_weight": Slot("attention.entry.weight"),
        f"{_MODULE}.attention.in_proj_bias": Slot("attention.entry.bias"),
        **pair(f"{_MODULE}.attention.out_proj", "attention.output"),
    }
    for modality, inner in _INNER.items():
        slots[f"{modality}_embedding.weight"] = Slot(f"features.{modality}.weight")
        slots |= pair(f"{modality}_trs", f"projection.{modality}.0")
        slots |= pair(f"{_MODULE}.{inner}", f"projection.{modality}.1")
    return slots


@torch.no_grad()
def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/item_item", dense(model.frozen_graph)
    for modality in model.modalities:
        graph = model.data.item_graph(modality, fixture.config["n_neighbors"] + 1, "uniform")
        yield f"graph/{modality}_knn", dense(graph)
    attended = []
    for modality in model.modalities:
        projected = model.projection[modality](model.features[modality]())
        query, key, _ = model.attention.parts(projected)
        weights = (query @ key.mT / model.attention.width**0.5).softmax(dim=-1)
        yield f"eval/attention_{modality}", weights.mean(dim=1)[0]
        attended.append(model.attention(projected))
    yield "eval/fused_features", sum(attended) / len(attended)
    yield from pruned_results(model, fixture)
    users, items = model.train().eval().embed()
    yield "prune/scores_after", users @ items.T


ADAPTER = Adapter(
    slots=_slots,
    config=_config,
    unused={
        "dropout": EPOCH_DRAW,
        "reg_weight": "read without effect",
        "lambda_coeff": "read without effect",
    },
    parts={"bpr": same("bpr")},
    runs={"prune": Run(change=prune)},
    results=_results,
)
