"""What several adapters share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from recbole_mambarec.layers.losses import info_nce
from tests.parity.runner import Fixture, Slot


def pair(published: str, ours: str, parts=("weight", "bias"), rows: slice = slice(None)) -> dict[str, Slot]:
    """Slots of a weight and its bias."""
    return {f"{published}.{part}": Slot(f"{ours}.{part}", rows) for part in parts}


def weighted(part: str, weight: str) -> Callable[[dict, dict], float]:
    """A published loss part that is stored without its weight."""
    return lambda parts, config: parts[part] / config[weight]


def same(part: str) -> Callable[[dict, dict], float]:
    """A published loss part that is one of ours."""
    return lambda parts, config: parts[part]


def dense(graph) -> object:
    """A :class:`SparseGraph` as an array."""
    return graph.scipy().toarray()


# published name of each modality's item gate and preference gate
_GATES = {"image": ("gate_v.0", "gate_image_prefer.0"), "text": ("gate_t.0", "gate_text_prefer.0")}


def view_slots() -> dict[str, Slot]:
    """Places of what MGCN and MambaRec have in common."""
    slots = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        "query_common.2.weight": Slot("fusion.attention.2.weight"),
    }
    slots |= pair("query_common.0", "fusion.attention.0")
    for modality, (item_gate, preference) in _GATES.items():
        slots[f"{modality}_embedding.weight"] = Slot(f"features.{modality}.weight")
        slots |= pair(item_gate, f"item_gate.{modality}") | pair(preference, f"fusion.preference.{modality}")
    return slots


def _both_views(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Side and behaviour view of all nodes; MambaRec leaves the fusion of the former to its callers."""
    views = model._views()
    side = views.side if hasattr(views, "side") else model.fusion(views.modal, views.behaviour)
    return side, views.behaviour


def view_results(model: nn.Module, fixture: Fixture) -> Iterator[tuple[str, object]]:
    """Graphs, views and their contrast, which the files of MGCN and MambaRec have in common."""
    arrays, n_users = fixture.arrays, fixture.meta["n_users"]
    for modality in model.modalities:
        yield f"graph/{modality}_knn", dense(model.item_graph[modality])
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/user_item", dense(model.user_item)

    model.eval()
    with torch.no_grad():
        views = _both_views(model)
    yield "eval/side_embeddings", views[0]
    yield "eval/content_embeddings", views[1]
    side, behaviour = (view[n_users:][arrays["batch_pos"]] for view in views)
    yield "infonce/view1", side
    yield "infonce/view2", behaviour
    yield "infonce/value_t0.2", info_nce(side, behaviour, 0.2)

    training = _both_views(fixture.build().train())
    users = (view[:n_users][arrays["batch_users"]] for view in training)
    items = (view[n_users:][arrays["batch_pos"]] for view in training)
    yield "train/part/cl_user", info_nce(*users, 0.2).item()
    yield "train/part/cl_item", info_nce(*items, 0.2).item()

    losses = fixture.losses(fixture.build(train_batch_size=32).train())
    yield "train_bs32/loss", sum(losses.values()).item()
    yield "train_bs32/reg_weighted", losses["reg"].item()
