"""GUME. The files record its noise for all users, where our model draws it for the rows of the batch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    call,
    dense,
    pair,
    renamed,
    view_parts,
    view_results,
    weighted,
)
from recbole_mambarec.testing.parity.runner import Fixture

_VIEW_CONTRAST, _USER_CONTRAST = "recbole_mambarec.models.views.info_nce", "recbole_mambarec.models.gume.info_nce"
_DRAWS = ("fused_1", "fused_2", "extended_1", "extended_2")


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    slots = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        "separate_coarse.2.weight": Slot("fusion.attention.2.weight"),
        **pair("separate_coarse.0", "fusion.attention.0"),
    }
    for m in model.modalities:
        slots[f"extended_{m}_user.weight"] = Slot(f"user_modality.{m}.weight")
        slots[f"{m}_embedding.weight"] = Slot(f"features.{m}.weight")
        slots |= pair(f"{m}_reduce_dim", f"item_gate.{m}.0") | pair(f"{m}_trans_dim.0", f"item_gate.{m}.1")
        slots |= pair(f"{m}_behavior.0", f"fusion.preference.{m}")
    return slots


def _no_noise(fixture: Fixture) -> list:
    shape = len(fixture.arrays["batch_users"]), fixture.config["embedding_size"]
    return [np.zeros(shape, dtype=np.float32)] * len(_DRAWS)


def _recorded_noise(fixture: Fixture) -> list:
    return [fixture.arrays[f"noise/draw_{name}"][fixture.arrays["batch_users"]] for name in _DRAWS]


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from view_results(model, fixture)
    n_users = fixture.meta["n_users"]
    yield "graph/item_item_raw", dense(model.bipartite)[n_users:, n_users:] != 0
    with torch.no_grad():
        purified = model._purified()
        for modality, nodes in model._modal(purified).items():
            yield f"eval/{modality}_embeddings", nodes
        yield "eval/extended_embeddings", model._extended(purified)


ADAPTER = Adapter(
    slots=_slots,
    config=renamed(
        {
            "n_layers": "n_mm_layers",
            "reg_weight_1": "reg_weight",
            "reg_weight_2": "extended_weight",
            "bm_loss": "cl_weight",
            "bm_temp": "temperature",
            "um_loss": "user_weight",
            "um_temp": "user_temperature",
            "vt_loss": "gap_weight",
        }
    ),
    parts={
        **{name.replace("cl_", "bm_"): part for name, part in view_parts(_VIEW_CONTRAST, items=0, users=1).items()},
        "reg_extended_raw": weighted("reg_extended", "extended_weight"),
        "gap": weighted("gap", "gap_weight"),
        **{f"um_{name}": call(_USER_CONTRAST, number) for number, name in enumerate(("cross", "fused", "extended"))},
    },
    watched=(_VIEW_CONTRAST, _USER_CONTRAST),
    runs={"train": Run(draws=_no_noise), "noise": Run(draws=_recorded_noise)},
    results=_results,
)
