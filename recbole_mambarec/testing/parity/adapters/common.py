"""What several adapters share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.data.graphs.bipartite import bipartite_adjacency
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.losses import info_nce
from recbole_mambarec.testing.memory import parameters_by_optimizer
from recbole_mambarec.testing.parity.adapter import Run, Slot, TrainingPass
from recbole_mambarec.testing.parity.runner import Fixture

# hyper-parameters that several published models read without effect
FEATURE_WIDTH = "always embedding_size: the published code adds projected features to ids"
EPOCH_DRAW = "drawn before an epoch: the files hold the edges that were drawn"


def renamed(names: dict[str, str], **more: object) -> Callable[[dict], dict]:
    """An :attr:`Adapter.config` that renames hyper-parameters to our keys and adds ``more`` of them."""
    return lambda published: {names.get(key, key): value for key, value in published.items()} | more


def pair(published: str, ours: str, parts=("weight", "bias"), rows: slice = slice(None)) -> dict[str, Slot]:
    """Slots of a weight and its bias."""
    return {f"{published}.{part}": Slot(f"{ours}.{part}", rows) for part in parts}


def weighted(part: str, weight: str) -> Callable[[TrainingPass], float]:
    """A published loss part that is one of ours without its weight."""
    return lambda made: made.unweighted(part, weight)


def same(part: str) -> Callable[[TrainingPass], float]:
    """A published loss part that is one of ours."""
    return lambda made: made.parts[part]


def call(function: str, number: int) -> Callable[[TrainingPass], Tensor]:
    """A published loss part that a watched function returned in its ``number``-th call (from 0)."""
    return lambda made: made.calls[function][number].result


def dense(graph: SparseGraph) -> np.ndarray:
    """A :class:`SparseGraph` as an array."""
    return graph.scipy().toarray()


def item_tables(modalities=("image", "text"), projection: str = "{}_trs") -> dict[str, Slot]:
    """Slots of ids, trained feature tables and one linear map per modality, under the names of most MMRec models."""
    slots = {"item_id_embedding.weight": Slot("item_embedding.weight")}
    for modality in modalities:
        slots[f"{modality}_embedding.weight"] = Slot(f"features.{modality}.weight")
        slots |= pair(projection.format(modality), f"projection.{modality}")
    return slots


def gradients_apart(
    model: AbstractRecommender, fixture: Fixture, losses: Iterable[tuple[str, Tensor]], folder: str
) -> Iterator[tuple[str, object]]:
    """Gradients of what the model trains apart, by their keys in a ``folder`` of the file."""
    parameters = parameters_by_optimizer(model)
    for part, loss in losses:
        loss.backward(inputs=parameters[part])
    named, apart = dict(model.named_parameters()), {id(p) for part in model.trained_apart() for p in parameters[part]}
    for name, slot in fixture.adapter.slots(model).items():
        if slot is not None and id(named[slot.name]) in apart:
            yield f"{folder}/{name}", slot.of(named[slot.name].grad)


def neighbour_graphs(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    """The user-item graph, FREEDOM's item graph and its parts."""
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/item_item", dense(model.item_graph)
    for modality in model.modalities:
        yield f"graph/{modality}_knn", dense(model.data.item_graph(modality, fixture.config["knn_k"], "uniform"))


def prune(model: AbstractRecommender, fixture: Fixture) -> None:
    """Train on the edges that the file says were kept."""
    users, items = fixture.arrays["prune/kept_edges"]
    model.training_graph = bipartite_adjacency(users, items, fixture.meta["n_users"], fixture.meta["n_items"])


def pruned_results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    """The weights with which edges are drawn, and the graph of those that were kept."""
    # an edge's weight in the draw is its weight in the normalised graph
    yield "graph/edge_weights", dense(model.data.user_item)
    prune(model, fixture)
    yield "prune/graph", dense(model.training_graph)


def masks(*names: str, rows: dict[str, str] | None = None) -> Run:
    """The run with recorded dropout, whose rate is our key ``dropout_prob``.

    Args:
        names: of the masks, in our order of drawing.
        rows: name of a mask that is recorded for a whole table -> the nodes of the batch for which our model draws it,
            ``users`` or ``pos``.
    """

    def draws(fixture: Fixture) -> list:
        nodes = {name: fixture.arrays[f"batch_{side}"] for name, side in (rows or {}).items()}
        return [fixture.arrays[f"dropout/mask_{name}"][nodes.get(name, slice(None))] for name in names]

    return Run(settings=lambda fixture: {"dropout_prob": float(fixture.arrays["dropout/rate"])}, draws=draws)


# ---------------------------------------------------------------------- models with two views

# published name of each modality's item gate and preference gate
_GATES = {"image": ("gate_v.0", "gate_image_prefer.0"), "text": ("gate_t.0", "gate_text_prefer.0")}


def view_slots() -> dict[str, Slot]:
    """Slots that MGCN and MambaRec share."""
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


def view_parts(contrast: str, items: int, users: int) -> dict[str, Callable[[TrainingPass], object]]:
    """Loss parts of MGCN and its successors.

    Args:
        contrast: watched function that computes the contrastive terms.
        items, users: which of its calls (from 0) are those of the items and of the users.
    """
    return {
        "bpr": same("bpr"),
        "reg_weighted": same("reg"),
        "reg_raw": weighted("reg", "reg_weight"),
        "cl_item": call(contrast, items),
        "cl_user": call(contrast, users),
    }


def view_results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    """Graphs, both views, and the contrast of the views by itself."""
    arrays, n_users = fixture.arrays, fixture.meta["n_users"]
    for name, graph in model.item_graph.items():
        yield f"graph/{name}_knn", dense(graph)
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/user_item", dense(model.user_item)

    model.eval()
    with torch.no_grad():
        views = model._views()
    yield "eval/side_embeddings", views.side
    yield "eval/content_embeddings", views.behaviour
    side, behaviour = (view[n_users:][arrays["batch_pos"]] for view in (views.side, views.behaviour))
    yield "infonce/view1", side
    yield "infonce/view2", behaviour
    yield "infonce/value_t0.2", info_nce(side, behaviour, 0.2)
