"""VBPR."""

from __future__ import annotations

from tests.parity.adapters.common import pair, same, weighted
from tests.parity.runner import Adapter, Slot

ADAPTER = Adapter(
    config=dict,
    slots=lambda model: {
        "u_embedding": Slot("user_embedding.weight"),
        "i_embedding": Slot("item_embedding.weight"),
        **pair("item_linear", "projection"),
    },
    results=lambda model, fixture: iter(()),
    part_names={"bpr": same("bpr"), "reg": weighted("reg", "reg_weight")},
)
