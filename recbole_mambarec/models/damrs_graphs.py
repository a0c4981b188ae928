"""Item graphs of DAMRS: neighbours that all modalities agree on, and items that share users."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from recbole_mambarec.data.graphs.neighbours import unit_rows
from recbole_mambarec.data.graphs.sparse import SparseGraph, inverse_sqrt
from recbole_mambarec.data.training import TrainingData

_BLOCK_VALUES = 1 << 25
# raise it when the search changes, so that lists that are kept on disk are not taken for new ones
GRAPHS_VERSION = 1


def denoised_graphs(data: TrainingData, k: int) -> dict[str, SparseGraph]:
    """A binary graph per modality of the k most similar of those items that are similar in every modality.

    Similar is a cosine of at least the mean over all pairs of items, an item with itself included; an item has fewer
    than k neighbours where fewer are left. Row i receives; entries are ``1 / sqrt(d_i d_j)`` with d the row counts.
    """
    arrays = data.kept(
        "denoised-neighbours", {"k": k, "version": GRAPHS_VERSION}, lambda: _denoised_neighbours(data, k)
    )
    return {m: binary_graph(arrays[m]) for m in data.modalities}


def _denoised_neighbours(data: TrainingData, k: int) -> dict[str, np.ndarray]:
    unit = {}
    for m in data.modalities:
        unit[m] = unit_rows(data.features(m)[:]) * torch.from_numpy(data.present(m))[:, None]
    # the mean over all pairs is the square of the mean row's length
    means = {m: x.mean(dim=0, dtype=torch.float64).square().sum().item() for m, x in unit.items()}
    n_items, k = data.n_items, min(k, data.n_items)
    lists = {m: np.empty((n_items, k), dtype=np.int32) for m in unit}
    starts = range(0, n_items, max(1, _BLOCK_VALUES // max(n_items, 1)))
    for start in tqdm(starts, desc="denoised neighbours", disable=not data.shows_progress or len(starts) < 2, delay=2):
        rows = slice(start, min(start + starts.step, n_items))
        cosines = {m: x[rows] @ x.T for m, x in unit.items()}
        similar = torch.stack([cosines[m] >= means[m] for m in unit]).all(dim=0)
        for m, values in cosines.items():
            best = values.masked_fill(~similar, -torch.inf).topk(k, dim=1)
            lists[m][rows] = best.indices.masked_fill(torch.isneginf(best.values), -1).numpy()
    return lists


def behaviour_graph(data: TrainingData, k: int) -> SparseGraph:
    """A binary graph of the k items that share most users with each item, two at least, and of the item itself."""
    shared = data.co_items(k)
    rows = np.repeat(np.arange(data.n_items), np.diff(shared.starts))
    kept = shared.counts >= 2
    return behaviour_graph_of(rows[kept], shared.nodes[kept], data.n_items)


def behaviour_graph_of(rows: np.ndarray, neighbours: np.ndarray, n_items: int) -> SparseGraph:
    """:func:`behaviour_graph` of given links, to which those of items with themselves are added."""
    itself = np.arange(n_items)
    return _binary(np.concatenate([rows, itself]), np.concatenate([neighbours, itself]), n_items)


def binary_graph(lists: np.ndarray) -> SparseGraph:
    """Graph of neighbour lists ``(n_items, k)``, in which -1 is none."""
    kept = lists >= 0
    return _binary(np.repeat(np.arange(len(lists)), kept.sum(axis=1)), lists[kept], len(lists))


def _binary(rows: np.ndarray, columns: np.ndarray, n_items: int) -> SparseGraph:
    scale = inverse_sqrt(np.bincount(rows, minlength=n_items))
    return SparseGraph(sp.coo_array((scale[rows] * scale[columns], (rows, columns)), shape=(n_items, n_items)))
