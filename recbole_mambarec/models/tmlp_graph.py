"""An item graph reduced to the neighbours with which an item shares most information (TMLP)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.data.graphs.sparse import SparseGraph

_EPSILON = 1e-10


def mutual_information(graph: sp.csr_array) -> sp.csr_array:
    """Mutual information of the rows of each stored pair (i, j), i != j, of an item graph, ``(I, I)``.

    Each column is an event: row i has an entry there, or none. Let e be the shares of the columns in which rows i and j
    have (entry, entry), (entry, none), (none, entry), (none, none), and p_i the mean of row i of the *weights*. The
    information is ``sum e ln(e / (P Q + 1e-10) + 1e-10)`` with ``P Q = p_i p_j, p_i (1 - p_j), ...``. That e counts
    entries while p averages weights is the published code's choice.
    Source: TMLP (AAAI 2025).
    """
    n_items = graph.shape[0]
    binary = graph.copy()
    binary.data = np.ones_like(binary.data, dtype=np.float64)
    chance = graph.astype(np.float64).sum(axis=1) / n_items
    pairs = graph.tocoo()
    other = pairs.coords[0] != pairs.coords[1]
    rows, columns = (ends[other] for ends in pairs.coords)
    common = _common_entries(binary, rows, columns) / n_items
    filled = np.diff(binary.indptr) / n_items
    information = np.zeros(len(rows))
    for share, expected in (
        (common, chance[rows] * chance[columns]),
        (filled[rows] - common, chance[rows] * (1 - chance[columns])),
        (filled[columns] - common, (1 - chance[rows]) * chance[columns]),
        (1 - filled[rows] - filled[columns] + common, (1 - chance[rows]) * (1 - chance[columns])),
    ):
        information += share * np.log(share / (expected + _EPSILON) + _EPSILON)
    return sp.csr_array((information, (rows, columns)), shape=graph.shape)


def _common_entries(binary: sp.csr_array, rows: np.ndarray, columns: np.ndarray, block: int = 1 << 16) -> np.ndarray:
    """Columns in which both rows of each pair have an entry; in blocks of pairs."""
    counts = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        counts[part] = binary[rows[part]].multiply(binary[columns[part]]).sum(axis=1)
    return counts


def most_informative(graph: SparseGraph, count: int) -> Neighbours:
    """The ``count`` neighbours of each item with the largest mutual information, in :attr:`Neighbours.indices`.

    Their ``cosines`` are the weights that they have in the graph. Among equals, the lower number comes first.
    """
    matrix = graph.scipy()
    information = mutual_information(matrix)
    sizes = np.diff(information.indptr)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((information.indices, -information.data, rows))
    rank = np.arange(len(rows)) - information.indptr[rows]
    kept = rank < count
    indices = np.full((len(sizes), count), -1, dtype=np.int32)
    weights = np.zeros((len(sizes), count), dtype=np.float32)
    chosen = order[kept]
    indices[rows[kept], rank[kept]] = information.indices[chosen]
    weights[rows[kept], rank[kept]] = matrix[rows[chosen], information.indices[chosen]]
    return Neighbours(indices, weights)
