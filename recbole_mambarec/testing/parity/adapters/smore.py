"""SMORE."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import item_tables, masks, pair, renamed, view_parts, view_results
from recbole_mambarec.testing.parity.runner import Fixture

_CONTRAST = "recbole_mambarec.models.views.info_nce"
# view -> published letter and name
_VIEWS = {"image": ("v", "image"), "text": ("t", "text"), "fused": ("f", "fusion")}


def _config(published: dict) -> dict:
    own_k = {modality: published.pop(f"{modality}_knn_k") for modality in ("image", "text")}
    names = {"cl_loss": "cl_weight", "dropout_rate": "dropout_prob", "n_layers": "n_mm_layers"}
    return renamed(names, modality_knn_k=own_k)(published)


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    slots = {"user_embedding.weight": Slot("user_embedding.weight")} | item_tables()
    for view, (letter, name) in _VIEWS.items():
        slots[f"{name}_complex_weight"] = Slot(f"filter.{view}")
        slots |= pair(f"gate_{letter}.0", f"item_gate.{view}") | pair(f"gate_{name}_prefer.0", f"preference.{view}")
    for modality in model.modalities:
        query = f"query_{_VIEWS[modality][0]}"
        slots |= pair(f"{query}.0", f"attention.{modality}.0")
        slots[f"{query}.2.weight"] = Slot(f"attention.{modality}.2.weight")
    return slots


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from view_results(model, fixture)
    with torch.no_grad():
        for view, features in model._filtered().items():
            yield f"spectrum/{view}", features


ADAPTER = Adapter(
    slots=_slots,
    config=_config,
    parts=view_parts(_CONTRAST, items=0, users=1),
    watched=(_CONTRAST,),
    runs={"dropout": masks("image", "text", "fused")},
    results=_results,
)
