"""Approximate item neighbours for catalogues whose exact search would take hours; needs the extra ``[ann]``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_mambarec.data.graphs.neighbours import Neighbours, unit_rows
from recbole_mambarec.data.rows import Rows
from recbole_mambarec_common.extras import need

# raise it when the search changes, so that kept neighbour lists are not taken for new ones
APPROXIMATE_VERSION = 1
# axes in which candidates are searched, candidates per neighbour wanted, rows that the axes and the cells are fitted to
_AXES, _CANDIDATES_PER_NEIGHBOUR, _FITTED_ROWS = 256, 8, 50_000
# rows that are searched at a time, values that are compared at a time
_SEARCHED, _BLOCK_VALUES = 4096, 1 << 22
# share of the cells that a search looks into, and their least number
_PROBED_SHARE, _LEAST_PROBED = 1 / 4, 16


def approximate_neighbours(
    features: Rows, k: int, present: np.ndarray | None = None, progress: bool = False
) -> Neighbours:
    """What :func:`~recbole_mambarec.data.graphs.neighbours.nearest_neighbours` gives, with a few neighbours missed.

    Rows are mapped to their leading axes and divided into about ``4 sqrt(n)`` cells (faiss, IVF); the nearest rows of
    the nearest cells are candidates, and the best of these by their true cosines are the neighbours. That is some
    seventy times less work than the exact search of 4096-wide rows; memory grows with n. ``python -m
    benchmarks.neighbours`` measures the recall.

    Args:
        features, k, present, progress: as there.

    Raises:
        UserError: faiss is not installed, or broken.
    """
    faiss = need(
        "faiss",
        "ann",
        "or set knn_search=exact, whose time grows with the square of the number of items (this is the "
        "approximate search of item neighbours)",
    )
    n_items = len(features)
    k = min(int(k), n_items)
    there = np.arange(n_items) if present is None else np.flatnonzero(present)
    indices = np.full((n_items, k), -1, dtype=np.int32)
    cosines = np.zeros((n_items, k), dtype=np.float32)
    indices[:, 0], cosines[:, 0] = np.arange(n_items), 1.0
    if k == 1 or len(there) < 2:
        return Neighbours(indices, cosines)
    reduced = _on_leading_axes(features, there)
    # faiss asks for 39 rows per cell to place it
    n_cells = max(1, min(int(4 * np.sqrt(len(there))), len(there) // 39))
    index = faiss.index_factory(reduced.shape[1], f"IVF{n_cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(reduced[_sample(len(there))])
    index.add(reduced)
    index.nprobe = min(n_cells, max(_LEAST_PROBED, int(n_cells * _PROBED_SHARE)))
    n_candidates = min(len(there), _CANDIDATES_PER_NEIGHBOUR * k)
    step = max(1, _BLOCK_VALUES // (n_candidates * features.shape[1]))
    # neighbours in space are searched one after the other, so that their candidates are in the cache
    order = np.argsort(index.quantizer.search(reduced, 1)[1][:, 0], kind="stable")
    for start in tqdm(range(0, len(there), _SEARCHED), desc="item neighbours, approximate", disable=not progress):
        chosen = order[start : start + _SEARCHED]
        _, found = index.search(reduced[chosen], n_candidates)
        for first in range(0, len(chosen), step):
            rows = slice(first, first + step)
            mine, candidates = there[chosen[rows]], np.where(found[rows] < 0, -1, there[found[rows]])
            indices[mine, 1:], cosines[mine, 1:] = _best(features, mine, candidates, k - 1)
    return Neighbours(indices, cosines)


def _sample(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(n, min(n, _FITTED_ROWS), replace=False))


def _on_leading_axes(features: Rows, there: np.ndarray) -> np.ndarray:
    """Unit rows of the items ``there`` on the axes that carry most of them, float32 ``(len(there), axes)``."""
    dim = features.shape[1]
    gram = torch.zeros(dim, dim)
    rows = there[_sample(len(there))]
    step = max(1, _BLOCK_VALUES // dim)
    for start in range(0, len(rows), step):
        unit = unit_rows(features[rows[start : start + step]])
        gram += unit.T @ unit
    # not centred: products are to be kept, not differences
    axes = torch.linalg.eigh(gram).eigenvectors[:, -min(_AXES, dim) :]
    reduced = np.empty((len(there), axes.shape[1]), dtype=np.float32)
    for start in range(0, len(there), step):
        reduced[start : start + step] = (unit_rows(features[there[start : start + step]]) @ axes).numpy()
    return reduced


def _best(features: Rows, mine: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` candidates of each row with the largest true cosines, without the row itself and those that are -1."""
    shape = (*candidates.shape, features.shape[1])
    compared: Tensor = unit_rows(features[np.maximum(candidates, 0).ravel()]).view(shape)
    similarity = torch.bmm(compared, unit_rows(features[mine])[:, :, None])[:, :, 0]
    similarity[torch.from_numpy((candidates < 0) | (candidates == mine[:, None]))] = -torch.inf
    values, places = similarity.topk(min(k, candidates.shape[1]), dim=1)
    chosen = np.take_along_axis(candidates, places.numpy(), axis=1)
    none = torch.isneginf(values).numpy()
    missing = ((0, 0), (0, k - chosen.shape[1]))
    return (
        np.pad(np.where(none, -1, chosen), missing, constant_values=-1),
        np.pad(np.where(none, 0.0, values.numpy()), missing),
    )
