"""GRCN."""

from __future__ import annotations

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import pair, same, weighted


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    slots = {"id_gcn.id_embedding": Slot("node_ids"), "model_specific_conf": Slot("confidence")}
    for branch, modality in (("v_gcn", "image"), ("t_gcn", "text")):
        slots[f"{branch}.preference"] = Slot(f"preference.{modality}")
        slots |= pair(f"{branch}.MLP", f"projection.{modality}")
    return slots


ADAPTER = Adapter(
    slots=_slots,
    unused={"n_layers": "the released routing changes nothing, however often"},
    parts={
        "bpr": same("bpr"),
        "reg_id": weighted("reg_id", "reg_weight"),
        "reg_image_pref_table": weighted("reg_preference", "reg_weight"),
        "reg_image_pref_batch": weighted("reg_preference_image", "reg_weight"),
        "reg_text_pref_batch": weighted("reg_preference_text", "reg_weight"),
    },
)
