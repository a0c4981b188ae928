"""VBPR."""

from __future__ import annotations

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import pair, same, weighted

ADAPTER = Adapter(
    slots=lambda model: {
        "u_embedding": Slot("user_embedding.weight"),
        "i_embedding": Slot("item_embedding.weight"),
        **pair("item_linear", "projection"),
    },
    parts={"bpr": same("bpr"), "reg": weighted("reg", "reg_weight")},
)
