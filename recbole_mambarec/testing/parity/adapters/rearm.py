"""REARM. Neighbours by shared interactions are drawn in part: the lists and the draw of the file are taken."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.models import rearm_graphs
from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import call, dense, pair, renamed, same
from recbole_mambarec.testing.parity.runner import Fixture

_CONTRAST, _DIFFERENCE = (
    f"recbole_mambarec.models.rearm.{name}" for name in ("info_nce_distinct", "cross_correlation")
)
_LETTER = {"image": "v", "text": "t"}
_NAMES = {
    "embedding_dim": "embedding_size",
    "n_layers": "n_ui_layers",
    "s_drop": "self_dropout",
    "m_drop": "mutual_dropout",
    "u_mm_image_weight": "user_image_weight",
    "i_mm_image_weight": "mm_image_weight",
    "uu_co_weight": "user_co_weight",
    "ii_co_weight": "item_co_weight",
    "item_knn_k": "knn_k",
    "n_ii_layers": "n_mm_layers",
    "cl_tmp": "temperature",
    "cl_loss_weight": "cl_weight",
    "diff_loss_weight": "diff_weight",
}


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "user_id_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        "prl.weight": Slot("activation.weight"),
        **pair("ly_norm", "norm"),
    }
    for number, m in enumerate(model.modalities, start=1):
        slots[f"{m}_embedding.weight"] = Slot(f"features.{m}.weight")
        slots[f"user_{_LETTER[m]}_prefer"] = Slot(f"interests.{m}.weight")
        slots |= pair(f"{m}_i_trs", f"item_projection.{m}") | pair(f"{m}_u_trs", f"user_projection.{m}")
        for kind in ("self", "mutual"):
            theirs, ours = f"{kind}_i_attn{number}", f"{kind}_attention.{m}"
            slots |= {
                f"{theirs}.in_proj_weight": Slot(f"{ours}.in_weight"),
                f"{theirs}.in_proj_bias": Slot(f"{ours}.in_bias"),
            }
            slots |= {
                f"{theirs}.out_proj.weight": Slot(f"{ours}.out_weight"),
                f"{theirs}.out_proj.bias": Slot(f"{ours}.out_bias"),
            }
    for letter, side in (("u", "user"), ("i", "item")):
        slots |= pair(f"meta_net{letter}", f"meta_input.{side}")
        for number, ours in ((1, "meta_in"), (2, "meta_out")):
            theirs = f"mlp_{letter}{number}"
            slots |= pair(f"{theirs}.linear_pre", f"{ours}.{side}.hidden")
            slots |= pair(f"{theirs}.linear_out", f"{ours}.{side}.output")
            slots[f"{theirs}.prl.weight"] = Slot(f"{ours}.{side}.activation.weight")
    return slots


def _co_graph(fixture: Fixture, side: str) -> sp.csr_array:
    """The dense sums of the drawn neighbours and their weights."""
    index, weights = fixture.arrays[f"{side}_co/index"], fixture.arrays[f"{side}_co/weights"]
    rows = np.repeat(np.arange(len(index)), index.shape[1])
    return sp.csr_array((weights.ravel().astype(np.float64), (rows, index.ravel())), shape=(len(index),) * 2)


def _similar(model: AbstractRecommender, fixture: Fixture, side: str) -> dict[str, sp.csr_array]:
    data, k = model.data, fixture.config["knn_k" if side == "item" else "user_knn_k"]
    lists = {
        m: data.neighbours(m, k) if side == "item" else rearm_graphs.user_neighbours(data, m, k)
        for m in model.modalities
    }
    return {m: rearm_graphs.cosine_over_k(found, k) for m, found in lists.items()}


def _parts(
    model: AbstractRecommender, fixture: Fixture, side: str
) -> tuple[dict[str, sp.csr_array], sp.csr_array, sp.csr_array]:
    """kNN graphs, their sum, and the whole."""
    config, similar = fixture.config, _similar(model, fixture, side)
    shares = model.data.modality_shares(config["mm_image_weight" if side == "item" else "user_image_weight"])
    mixed = sum(weight * graph for weight, graph in zip(shares, similar.values()))
    together = config[f"{side}_co_weight"]
    return similar, mixed, together * _co_graph(fixture, side) + (1 - together) * mixed


def _prepare(model: AbstractRecommender, fixture: Fixture) -> None:
    model.user_graph, model.item_graph = (SparseGraph(_parts(model, fixture, side)[2]) for side in ("user", "item"))


_MASKS = {"self": ("self_image", "self_text"), "mutual": ("text_to_image", "image_to_text")}


def _rates(fixture: Fixture) -> dict:
    return {f"{kind}_dropout": float(fixture.arrays[f"dropout/rate_{kind}"]) for kind in _MASKS}


def _draws(fixture: Fixture) -> list:
    """The masks; where nothing or everything is dropped, our model draws none."""
    drawn = [name for kind, names in _MASKS.items() if 0 < _rates(fixture)[f"{kind}_dropout"] < 1 for name in names]
    return [fixture.arrays[f"dropout/mask_{name}"] for name in drawn]


def _own_counts(fixture: Fixture, side: str, counts: np.ndarray) -> np.ndarray:
    """Numbers of shared items; a node whose list was emptied by hand has what the file says."""
    file, lists = fixture.arrays[f"graph/{side}_co_counts"], fixture.arrays[f"data/{side}_co_neighbours"]
    emptied = np.flatnonzero((lists < 0).all(axis=1) & counts.any(axis=1))
    counts[emptied], counts[:, emptied] = file[emptied], file[:, emptied]
    return counts


def _own_co_graph(model: AbstractRecommender, fixture: Fixture, side: str) -> np.ndarray:
    """Our graph of the lists of the file, with its drawn repeats and its most active nodes."""
    k, arrays = fixture.config["knn_k" if side == "item" else "user_knn_k"], fixture.arrays
    lists, counts = (arrays[f"data/{side}_co_{name}"][:, :k] for name in ("neighbours", "counts"))
    sizes = (lists >= 0).sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shared = CoOccurrences(starts, lists[lists >= 0], counts[lists >= 0].astype(np.int64), k)
    drawn = arrays[f"{side}_co/index"]
    repeats = [(lists[node, :size, None] == drawn[node]).sum(axis=1) for node, size in enumerate(sizes)]
    activity = np.zeros(len(lists))
    # of nodes that are equally active, the file's order decides which are among the first k
    activity[arrays[f"data/top_{side}s"][:k]] = arrays[f"data/top_{side}_counts"][:k]
    return rearm_graphs.shared_graph(shared, np.concatenate(repeats), activity).toarray()


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    data = model.data
    matrix = interaction_matrix(data.users, data.items, data.n_users, data.n_items)
    yield "graph/norm_adj", dense(model.bipartite)
    for side, counts in (("user", matrix @ matrix.T), ("item", matrix.T @ matrix)):
        counts = counts.toarray()
        np.fill_diagonal(counts, 0)
        yield f"graph/{side}_co_counts", _own_counts(fixture, side, counts)
        similar, mixed, _ = _parts(model, fixture, side)
        for m, graph in similar.items():
            yield f"graph/{side}_{m}_knn", graph.toarray()
        yield f"graph/{side}_sim", mixed.toarray()
        yield f"graph/{side}_co", _own_co_graph(model, fixture, side)
        yield f"graph/{side}_{side}", dense(model.user_graph if side == "user" else model.item_graph)
    for m in model.modalities:
        yield f"eval/user_{m}_interest", rearm_graphs.interests(data, m)
    with torch.no_grad():
        modal, ids = model.eval()._views()
        yield "eval/modal_embeddings", modal
        yield "eval/id_embeddings", ids
        yield "eval/shared_embeddings", model._shared(modal, ids)


ADAPTER = Adapter(
    slots=_slots,
    config=renamed(_NAMES),
    unused={
        "seed": "of the run",
        "batch_size": "no term depends on it",
        "reg_weight": "the optimizer's weight decay",
        "user_aggr_mode": "read without effect",
    },
    parts={
        "bpr": same("bpr"),
        "cl_item": call(_CONTRAST, 0),
        "cl_user": call(_CONTRAST, 1),
        "diff_user": call(_DIFFERENCE, 0),
        "diff_item": call(_DIFFERENCE, 1),
        "cl_weighted": same("contrastive"),
        "diff_weighted": same("difference"),
    },
    watched=(_CONTRAST, _DIFFERENCE),
    runs={"dropout": Run(settings=_rates, draws=_draws)},
    results=_results,
    prepare=_prepare,
    inputs=("*_co/index", "*_co/weights"),
)
