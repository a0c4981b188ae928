"""Nearest neighbours by cosine, and item graphs over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_mambarec.data.graphs.sparse import SparseGraph, inverse_sqrt
from recbole_mambarec.data.rows import Rows

# float32 similarities held at a time during a search (128 MiB)
_BLOCK_VALUES = 1 << 25
# part of the cache key: raise it when a search or its tie rule changes, so that no cached list is taken for a new one
NEIGHBOURS_VERSION = 1


@dataclass(frozen=True)
class Neighbours:
    """The ``k`` most similar items of each item, itself included.

    Attributes:
        indices: int32, shape ``(n_items, k)``, most similar first, so column 0 is the item itself; -1 where an item
            has fewer neighbours.
        cosines: float32, same shape; 1 for the item itself, 0 where the index is -1.
    """

    indices: np.ndarray
    cosines: np.ndarray

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(receiving item, neighbour, cosine) of every entry that is there, each of shape ``(E,)``, row by row."""
        kept = self.indices >= 0
        rows = np.repeat(np.arange(len(kept), dtype=np.int64), kept.sum(axis=1))
        return rows, self.indices[kept], self.cosines[kept]

    def without_self(self) -> Neighbours:
        """The lists without their first column, in which every item names itself."""
        return Neighbours(self.indices[:, 1:], self.cosines[:, 1:])


def nearest_neighbours(
    features: np.ndarray | Tensor,
    k: int,
    present: np.ndarray | None = None,
    block: int | None = None,
    progress: bool = False,
) -> Neighbours:
    """Exact cosine top-k of rows in memory: row blocks of the similarity matrix, each compared with all items.

    It uses all cores, and memory is linear in the items.

    Args:
        features: float32, shape ``(n_items, dim)``; a tensor is searched on its device. A zero row has cosine 0 with
            everything but itself.
        k: neighbours per item, itself included; more than there are items gives all of them.
        present: bool, shape ``(n_items,)``. An item that lacks the modality is linked to itself alone and is no other
            item's neighbour: its features are a stand-in that would make all such items neighbours of each other.
        block: rows searched at a time; by default as many as keep the similarities within 128 MiB.
        progress: show a progress bar.

    Raises:
        ValueError: ``k`` is below 1.
    """
    unit = unit_rows(features)
    n_items = len(unit)
    found = _Lists(n_items, k)
    absent = _absent(present, n_items).to(unit.device)
    block = min(block or max(1, _BLOCK_VALUES // max(n_items, 1)), n_items)
    # one array for all blocks: the C library finds no room for a new one of this size where the last has been freed
    products = torch.empty(block * n_items, device=unit.device)
    for start in _progress(range(0, n_items, block), progress):
        rows = unit[start : start + block]
        similarity = torch.mm(rows, unit.T, out=products[: len(rows) * n_items].view(len(rows), n_items))
        _mask(similarity, start, 0, absent)
        found.store(start, *similarity.topk(found.k, dim=1))
    return found.neighbours


class LargestSoFar:
    """The k largest entries of each row of a matrix that comes in blocks of columns.

    Attributes:
        values, columns: of the blocks so far, ``(rows, k)``, descending; fewer than k if there were fewer columns.
    """

    def __init__(self, n_rows: int, k: int) -> None:
        self.k = k
        self.values, self.columns = torch.empty(n_rows, 0), torch.empty(n_rows, 0, dtype=torch.int64)

    def add(self, block: Tensor, first: int) -> None:
        """Take the columns from ``first`` on, ``(rows, n)``."""
        best = block.topk(min(self.k, block.shape[1]), dim=1)
        self.values = torch.cat([self.values, best.values], dim=1)
        self.columns = torch.cat([self.columns, best.indices + first], dim=1)
        if first > 0:
            self.values, kept = self.values.topk(min(self.k, self.values.shape[1]), dim=1)
            self.columns = self.columns.gather(1, kept)


def nearest_neighbours_on_disk(
    features: Rows,
    k: int,
    present: np.ndarray | None = None,
    block: int | None = None,
    progress: bool = False,
) -> Neighbours:
    """:func:`nearest_neighbours` of rows that are read as they are needed: square blocks of the similarity matrix.

    Every row is read once per block of rows, and no more than two blocks of rows are in memory at a time.

    Args:
        block: rows read at a time; by default as many as keep the rows and the similarities within 128 MiB each.
    """
    n_items, dim = features.shape
    found = _Lists(n_items, k)
    absent = _absent(present, n_items)
    block = min(block or max(1, min(int(_BLOCK_VALUES**0.5), _BLOCK_VALUES // max(dim, 1))), n_items)
    products = torch.empty(block * block)
    for start in _progress(range(0, n_items, block), progress):
        rows = unit_rows(features[start : start + block])
        best = LargestSoFar(len(rows), found.k)
        for first in range(0, n_items, block):
            others = unit_rows(features[first : first + block])
            similarity = torch.mm(rows, others.T, out=products[: len(rows) * len(others)].view(len(rows), -1))
            _mask(similarity, start, first, absent)
            best.add(similarity, first)
        found.store(start, best.values, best.columns)
    return found.neighbours


class _Lists:
    """Neighbour lists in the making; ``k`` is cut to the number of items."""

    def __init__(self, n_items: int, k: int) -> None:
        self.k = min(int(k), n_items)
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        shape = (n_items, self.k)
        self.neighbours = Neighbours(np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.float32))

    def store(self, start: int, values: Tensor, columns: Tensor) -> None:
        """The lists of the items from ``start`` on: masked similarities, largest first, and their columns."""
        rows = slice(start, start + len(values))
        missing = torch.isneginf(values)
        values[:, 0] = 1.0
        self.neighbours.indices[rows] = columns.masked_fill(missing, -1).cpu().numpy()
        self.neighbours.cosines[rows] = values.masked_fill(missing, 0.0).cpu().numpy()


def _mask(similarity: Tensor, first_row: int, first_column: int, absent: Tensor) -> None:
    """Take absent items out of a block of the similarity matrix, and put each item first in its own list.

    An item comes first even where others have equal features.
    """
    n_rows, n_columns = similarity.shape
    similarity[:, absent[first_column : first_column + n_columns]] = -torch.inf
    similarity[absent[first_row : first_row + n_rows], :] = -torch.inf
    start, stop = max(first_row, first_column), min(first_row + n_rows, first_column + n_columns)
    itself = torch.arange(start, max(start, stop), device=similarity.device)
    similarity[itself - first_row, itself - first_column] = torch.inf


def _absent(present: np.ndarray | None, n_items: int) -> Tensor:
    return torch.zeros(n_items, dtype=torch.bool) if present is None else torch.from_numpy(~np.asarray(present, bool))


def _progress(starts: range, progress: bool) -> Iterable[int]:
    return tqdm(starts, desc="item neighbours", disable=not progress or len(starts) < 2, delay=2)


def unit_rows(rows: np.ndarray | Tensor) -> Tensor:
    """Rows ``(n, dim)`` divided by their lengths, float32, without gradient; zero rows stay zero."""
    tensor = rows if isinstance(rows, Tensor) else torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    return torch.nn.functional.normalize(tensor.detach().float(), dim=1)


def knn_graph(neighbours: Neighbours, weighting: str = "cosine") -> SparseGraph:
    """Directed item graph ``(n_items, n_items)`` from neighbour lists: row i receives from the items in i's list.

    Args:
        neighbours: lists of ``n_items`` items.
        weighting: ``cosine``: ``s_ij / sqrt(d_i d_j)`` with ``d`` the row sums of the kept cosines (LATTICE, MGCN,
            MambaRec); ``uniform``: every neighbour weighs ``1 / k``, rows sum to 1 (FREEDOM).

    Raises:
        ValueError: unknown ``weighting``.
    """
    n_items = len(neighbours.indices)
    rows, columns, cosines = neighbours.edges()
    if weighting == "cosine":
        cosines = cosines.astype(np.float64)
        # cosines may be negative: an item whose sum is not positive has no usable neighbours
        scale = inverse_sqrt(np.bincount(rows, weights=cosines, minlength=n_items))
        weights = cosines * scale[rows] * scale[columns]
    elif weighting == "uniform":
        weights = 1.0 / np.bincount(rows, minlength=n_items)[rows]
    else:
        raise ValueError(f"unknown weighting '{weighting}': use 'cosine' or 'uniform'")
    return SparseGraph(sp.coo_array((weights, (rows, columns)), shape=(n_items, n_items)))
