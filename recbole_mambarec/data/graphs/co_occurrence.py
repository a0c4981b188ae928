"""Users who share items (or items that share users), and graphs over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from recbole_mambarec.data.graphs.sparse import SparseGraph, largest_entries, product_blocks


@dataclass(frozen=True)
class CoOccurrences:
    """For each of ``n`` nodes the nodes that it shares most interactions with, in one flat list.

    Attributes:
        starts: int64, shape ``(n + 1,)``: the neighbours of node v are at ``starts[v]:starts[v + 1]``.
        nodes: the neighbours' numbers; those with most shared interactions first, ties by number.
        counts: interactions shared with each of them, same shape as ``nodes``.
        k: neighbours per node at most.
    """

    starts: np.ndarray
    nodes: np.ndarray
    counts: np.ndarray
    k: int

    def graph(self) -> SparseGraph:
        """Neighbours weighted with the softmax of their counts, ``(n, n)``; a node without neighbours gets nothing."""
        return self.weighted(np.ones(len(self.nodes)))

    def filled_graph(self) -> SparseGraph:
        """:meth:`graph` after repeating neighbours at random until every node that has any has k of them.

        The repeats are drawn from torch's global generator. A neighbour that occurs n times weighs n-fold in the
        softmax. Source: DualGNN's user graph, which COHESION and DRAGON use too.
        """

        def draw(sizes: np.ndarray) -> np.ndarray:
            return (torch.rand(len(sizes), dtype=torch.float64).numpy() * sizes).astype(np.int64)

        return self.weighted(self.repeats_to_k(draw))

    def repeats_to_k(self, draw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """How often each of ``nodes`` occurs once every node that has neighbours has k of them, some repeated.

        Args:
            draw: for each neighbour that is missing, given how many its node has, which of them is repeated.
        """
        sizes = np.diff(self.starts)
        missing = np.where(sizes > 0, self.k - sizes, 0)
        drawn_for = np.repeat(np.arange(len(sizes)), missing)
        repeats = np.ones(len(self.nodes))
        np.add.at(repeats, self.starts[drawn_for] + draw(sizes[drawn_for]), 1.0)
        return repeats

    def weighted(self, repeats: np.ndarray) -> SparseGraph:
        """:meth:`graph` with each neighbour occurring as often as ``repeats`` says, in the order of ``nodes``."""
        sizes = np.diff(self.starts)
        rows = np.repeat(np.arange(len(sizes)), sizes)
        # subtracting the largest count, which comes first, keeps the exponentials finite
        powers = repeats * np.exp((self.counts - self.counts[self.starts[rows]]).astype(np.float64))
        weights = powers / np.bincount(rows, weights=powers, minlength=len(sizes))[rows]
        return SparseGraph(sp.coo_array((weights, (rows, self.nodes)), shape=(len(sizes), len(sizes))))


def co_occurrences(matrix: sp.csr_array, k: int, block_entries: int = 1 << 24) -> CoOccurrences:
    """The k largest entries of every row of ``R R^T`` without its diagonal, found in row blocks.

    Args:
        matrix: binary interactions R, ``(n_users, n_items)`` for co-users; transposed for co-items.
        k: neighbours per node.
        block_entries: upper bound, up to one node's share, on the entries of a block of the product.
    """
    parts = []
    for start, shared in product_blocks(matrix, matrix.T.tocsr(), block_entries):
        rows, columns, counts = shared.coords[0] + start, shared.coords[1], shared.data
        off_diagonal = rows != columns
        rows, columns, counts = rows[off_diagonal], columns[off_diagonal], counts[off_diagonal]
        kept = largest_entries(rows, columns, counts, k)
        parts.append((rows[kept], columns[kept], counts[kept]))
    rows, columns, counts = (np.concatenate(arrays) for arrays in zip(*parts))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=matrix.shape[0]))])
    return CoOccurrences(starts, columns, counts, k)
