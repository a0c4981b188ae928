"""MGCN."""

from __future__ import annotations

from recbole_mambarec.testing.parity.adapter import Adapter
from recbole_mambarec.testing.parity.adapters.common import pair, renamed, view_parts, view_results, view_slots

_CONTRAST = "recbole_mambarec.models.views.info_nce"

ADAPTER = Adapter(
    slots=lambda model: view_slots() | pair("image_trs", "projection.image") | pair("text_trs", "projection.text"),
    config=renamed({"cl_loss": "cl_weight", "n_layers": "n_mm_layers"}),
    parts=view_parts(_CONTRAST, items=0, users=1),
    watched=(_CONTRAST,),
    results=view_results,
)
