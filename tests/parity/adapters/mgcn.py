"""MGCN."""

from __future__ import annotations

from torch import nn

from tests.parity.adapters.common import pair, same, view_results, view_slots, weighted
from tests.parity.runner import Adapter, Slot


def _config(published: dict) -> dict:
    return {"cl_weight" if key == "cl_loss" else key: value for key, value in published.items()}


def _slots(model: nn.Module) -> dict[str, Slot]:
    return view_slots() | pair("image_trs", "projection.image") | pair("text_trs", "projection.text")


ADAPTER = Adapter(
    config=_config,
    slots=_slots,
    results=view_results,
    part_names={"bpr": same("bpr"), "reg_weighted": same("reg"), "reg_raw": weighted("reg", "reg_weight")},
)
