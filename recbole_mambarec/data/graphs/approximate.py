"""Approximate item neighbours for catalogues whose exact search would take hours; needs the extra ``[ann]``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_mambarec.data.graphs.neighbours import Neighbours, unit_rows
from recbole_mambarec.data.rows import Rows
from recbole_mambarec_common.extras import need

# part of the cache key: raise it when the search changes, so that no cached list is taken for a new one
APPROXIMATE_VERSION = 1
# dimensions of the search for candidates, candidates per neighbour, rows to which axes and cells are fitted
_AXES, _CANDIDATES_PER_NEIGHBOUR, _FITTED_ROWS = 256, 8, 50_000
# rows searched at a time, values compared at a time
_SEARCHED_ROWS, _BLOCK_VALUES = 4096, 1 << 22
# share of the cells that a search visits, and their smallest number
_PROBED_SHARE, _LEAST_PROBED = 1 / 4, 16


def approximate_neighbours(
    features: Rows, k: int, present: np.ndarray | None = None, progress: bool = False
) -> Neighbours:
    """As :func:`~recbole_mambarec.data.graphs.neighbours.nearest_neighbours`, but a few neighbours are missed.

    Rows are mapped to their leading axes and divided into about ``4 sqrt(n)`` cells (faiss, IVF); the nearest rows in
    the nearest cells are candidates, and those with the largest true cosines are the neighbours. That is about seventy
    times less work than the exact search of 4096-wide rows; memory grows with n. ``python -m benchmarks.neighbours``
    measures the recall.

    Args:
        features, k, present, progress: as for the exact search.

    Raises:
        UserError: faiss is not installed or is broken.
    """
    faiss = need(
        "faiss",
        "ann",
        "or set knn_search=exact, whose time grows with the square of the number of items (this is the "
        "approximate search of item neighbours)",
    )
    n_items = len(features)
    k = min(int(k), n_items)
    available = np.arange(n_items) if present is None else np.flatnonzero(present)
    indices = np.full((n_items, k), -1, dtype=np.int32)
    cosines = np.zeros((n_items, k), dtype=np.float32)
    indices[:, 0], cosines[:, 0] = np.arange(n_items), 1.0
    if k == 1 or len(available) < 2:
        return Neighbours(indices, cosines)
    reduced = _on_leading_axes(features, available)
    # faiss wants 39 rows per cell to place its centre
    n_cells = max(1, min(int(4 * np.sqrt(len(available))), len(available) // 39))
    index = faiss.index_factory(reduced.shape[1], f"IVF{n_cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(reduced[_sample(len(available))])
    index.add(reduced)
    index.nprobe = min(n_cells, max(_LEAST_PROBED, int(n_cells * _PROBED_SHARE)))
    n_candidates = min(len(available), _CANDIDATES_PER_NEIGHBOUR * k)
    step = max(1, _BLOCK_VALUES // (n_candidates * features.shape[1]))
    # rows of the same cell are searched in turn, so that their candidates are in the cache of the CPU
    order = np.argsort(index.quantizer.search(reduced, 1)[1][:, 0], kind="stable")
    for start in tqdm(
        range(0, len(available), _SEARCHED_ROWS), desc="item neighbours, approximate", disable=not progress
    ):
        chosen = order[start : start + _SEARCHED_ROWS]
        _, found = index.search(reduced[chosen], n_candidates)
        for first in range(0, len(chosen), step):
            rows = slice(first, first + step)
            items, candidates = available[chosen[rows]], np.where(found[rows] < 0, -1, available[found[rows]])
            indices[items, 1:], cosines[items, 1:] = _best(features, items, candidates, k - 1)
    return Neighbours(indices, cosines)


def _sample(n: int) -> np.ndarray:
    """Positions of up to ``_FITTED_ROWS`` of ``n`` rows, ascending; the same in every call."""
    return np.sort(np.random.default_rng(0).choice(n, min(n, _FITTED_ROWS), replace=False))


def _on_leading_axes(features: Rows, items: np.ndarray) -> np.ndarray:
    """Unit rows of ``items`` along their principal axes, float32 ``(len(items), axes)``."""
    dim = features.shape[1]
    gram = torch.zeros(dim, dim)
    rows = items[_sample(len(items))]
    step = max(1, _BLOCK_VALUES // dim)
    for start in range(0, len(rows), step):
        unit = unit_rows(features[rows[start : start + step]])
        gram += unit.T @ unit
    # not centred, because inner products are to be preserved rather than distances
    axes = torch.linalg.eigh(gram).eigenvectors[:, -min(_AXES, dim) :]
    reduced = np.empty((len(items), axes.shape[1]), dtype=np.float32)
    for start in range(0, len(items), step):
        reduced[start : start + step] = (unit_rows(features[items[start : start + step]]) @ axes).numpy()
    return reduced


def _best(features: Rows, items: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` candidates of each item with the largest true cosines, never the item itself, and these cosines.

    Args:
        items: ``(n,)``.
        candidates: ``(n, n_candidates)``; -1 where there is none.

    Returns:
        Candidates and cosines, ``(n, k)`` each; -1 and 0 where an item has fewer.
    """
    shape = (*candidates.shape, features.shape[1])
    compared: Tensor = unit_rows(features[np.maximum(candidates, 0).ravel()]).view(shape)
    similarity = torch.bmm(compared, unit_rows(features[items])[:, :, None])[:, :, 0]
    similarity[torch.from_numpy((candidates < 0) | (candidates == items[:, None]))] = -torch.inf
    values, places = similarity.topk(min(k, candidates.shape[1]), dim=1)
    chosen = np.take_along_axis(candidates, places.numpy(), axis=1)
    none = torch.isneginf(values).numpy()
    missing = ((0, 0), (0, k - chosen.shape[1]))
    return (
        np.pad(np.where(none, -1, chosen), missing, constant_values=-1),
        np.pad(np.where(none, 0.0, values.numpy()), missing),
    )
