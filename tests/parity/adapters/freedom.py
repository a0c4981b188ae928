"""FREEDOM."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from recbole_mambarec.data.graphs import bipartite_adjacency
from tests.parity.adapters.common import dense, pair, same, weighted
from tests.parity.runner import Adapter, Fixture, Slot


def _config(published: dict) -> dict:
    return {"prune_rate" if key == "dropout" else key: value for key, value in published.items()}


def _slots(model: nn.Module) -> dict[str, Slot]:
    slots = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
    }
    for modality in model.modalities:
        slots[f"{modality}_embedding.weight"] = Slot(f"features.{modality}.weight")
        slots |= pair(f"{modality}_trs", f"projection.{modality}")
    return slots


def _results(model: nn.Module, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/item_item", dense(model.item_graph)
    for modality in model.modalities:
        yield f"graph/{modality}_knn", dense(model.data.item_graph(modality, fixture.config["knn_k"], "uniform"))
    # an edge is drawn with the weight that it has in the normalised graph
    yield "graph/edge_weights", dense(model.data.user_item)

    users, items = fixture.arrays["prune/kept_edges"]
    pruned = bipartite_adjacency(users, items, fixture.meta["n_users"], fixture.meta["n_items"])
    model.training_graph = pruned
    yield "prune/graph", dense(pruned)
    yield "prune/loss", sum(fixture.losses(model.train()).values()).item()


ADAPTER = Adapter(
    config=_config,
    slots=_slots,
    results=_results,
    part_names={
        "bpr": same("bpr"),
        "bpr_text": weighted("bpr_text", "reg_weight"),
        "bpr_image": weighted("bpr_image", "reg_weight"),
    },
)
