"""Item and user-item graphs that follow what a user's items have in common (SOIL).

With S_m the cosines of the raw features of modality m and H the training items of a user:

* The interest graph of m links each h in H with the candidates C of the user, the ``k`` items with the largest
  ``sum_(h in H) S_m'[h, .]`` of every modality m' together; an entry is the sum of ``S_m[h, c]`` over users.
* The second-order graph links a user with items that resemble a single one of theirs in *all* modalities: of each row
  h of the product of all S_m the K largest, of these the K largest, with ``K = k + |H|``; an entry is their sum.

The published code holds both as dense matrices and goes through users one by one; here rows are taken in blocks, and
memory is linear in interactions and items. Source: SOIL (MM 2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.neighbours import unit_rows
from recbole_mambarec.data.graphs.sparse import inverse_sqrt

# cosines held at a time, in float32 values (128 MiB)
_BLOCK_VALUES = 1 << 25
# what entries that are not positive become
FLOOR = 1e-7


def symmetric_with_floor(matrix: sp.csr_array, column_degrees: np.ndarray | None = None) -> sp.csr_array:
    """``D^-1/2 W D^-1/2`` of the stored entries, of which none is smaller than 1e-7.

    Args:
        column_degrees: degrees of the columns; by default those of the rows, which are row sums.
    """
    degrees = np.asarray(matrix.astype(np.float64).sum(axis=1))
    rows, columns = (inverse_sqrt(d) for d in (degrees, degrees if column_degrees is None else column_degrees))
    scaled = (sp.diags_array(rows) @ matrix.astype(np.float64) @ sp.diags_array(columns)).tocsr()
    # products with diagonal matrices keep entries that have become zero
    scaled.data = np.maximum(scaled.data, FLOOR)
    return scaled


class Interest:
    """Graphs of shared interest.

    Args:
        users, items: training interactions.
        n_users, n_items: how many there are.
        features: float32 ``(n_items, dim)`` of each modality, with zero rows where an item lacks it.
        progress: show progress bars.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        n_users: int,
        n_items: int,
        features: dict[str, np.ndarray],
        progress: bool = False,
    ) -> None:
        self.histories = interaction_matrix(users, items, n_users, n_items)
        self.histories.sort_indices()
        self.unit = {name: unit_rows(matrix) for name, matrix in features.items()}
        self.n_users, self.n_items, self.progress = n_users, n_items, progress

    def _blocks(self, count: int, what: str) -> Iterator[slice]:
        step = max(1, _BLOCK_VALUES // max(self.n_items, 1))
        starts = range(0, count, step)
        for start in tqdm(starts, desc=what, disable=not self.progress or len(starts) < 2, delay=2):
            yield slice(start, min(start + step, count))

    def item_graphs(self, k: int) -> dict[str, sp.csr_array]:
        """The interest graph of each modality, not normalised, ``(I, I)``."""
        pairs = sp.csr_array((self.n_items, self.n_items))
        for block in self._blocks(self.n_users, "interests of users"):
            histories = self.histories[block]
            candidates = self._candidates(histories, k)
            # how many users of the block want each pair (h, c)
            pairs = pairs + histories.T @ candidates
        pairs = pairs.tocoo()
        graphs = {}
        for name, unit in self.unit.items():
            cosines = _cosines_of_pairs(unit, *pairs.coords)
            graphs[name] = sp.csr_array((pairs.data * cosines, pairs.coords), shape=pairs.shape)
        return graphs

    def _candidates(self, histories: sp.csr_array, k: int) -> sp.csr_array:
        """0 and 1, ``(users of the block, I)``: the items that are among the best k in one modality or more."""
        active = np.flatnonzero(np.diff(histories.indptr))
        rows, columns = [], []
        for unit in self.unit.values():
            profiles = torch.from_numpy((histories[active] @ unit.numpy()).astype(np.float32))
            best = (profiles @ unit.T).topk(min(k, self.n_items), dim=1).indices.numpy()
            rows.append(np.repeat(active, best.shape[1]))
            columns.append(best.ravel())
        ends = np.concatenate(rows), np.concatenate(columns)
        matrix = sp.coo_array((np.ones(len(ends[0])), ends), shape=histories.shape).tocsr()
        matrix.data[:] = 1.0
        return matrix

    def second_order(self, k: int) -> sp.csr_array:
        """The second-order graph, not normalised, ``(U, I)``."""
        sizes = np.diff(self.histories.indptr)
        # as many neighbours of an item as the largest history with it needs
        needed = np.zeros(self.n_items, dtype=np.int64)
        np.maximum.at(needed, self.histories.indices, np.repeat(sizes, sizes) + k)
        starts, columns, values = self._common_neighbours(np.minimum(needed, self.n_items))
        total = sp.csr_array((self.n_users, self.n_items))
        wanted = np.minimum(sizes + k, self.n_items)
        # users by how many entries their lists have together
        work = np.cumsum(sizes * wanted) // _BLOCK_VALUES
        edges = np.flatnonzero(np.diff(work, prepend=-1))
        for first, last in zip(edges, [*edges[1:], self.n_users]):
            owners = np.repeat(np.arange(first, last), sizes[first:last])
            lists = self.histories.indices[self.histories.indptr[first] : self.histories.indptr[last]]
            lengths = wanted[owners]
            place = np.repeat(starts[lists] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
            rows = np.repeat(owners, lengths)
            order = np.lexsort((-values[place], rows))
            rows, place = rows[order], place[order]
            kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < wanted[rows]
            ends = rows[kept], columns[place[kept]]
            total = total + sp.coo_array((values[place[kept]], ends), shape=total.shape).tocsr()
        return total

    def _common_neighbours(self, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``needed[i]`` largest entries of row i of the product of all S_m: starts, columns, values."""
        starts = np.concatenate([[0], np.cumsum(needed)])
        columns, values = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.float32)
        # rows that need as many lie in one block
        order = np.argsort(needed, kind="stable")
        for block in self._blocks(self.n_items, "neighbours in all modalities"):
            rows = order[block]
            product = torch.ones(())
            for unit in self.unit.values():
                product = product * (unit[rows] @ unit.T)
            best = product.topk(int(needed[rows].max(initial=0)), dim=1)
            for_row = np.arange(best.values.shape[1]) < needed[rows][:, None]
            place = (starts[rows][:, None] + np.arange(for_row.shape[1]))[for_row]
            columns[place], values[place] = best.indices.numpy()[for_row], best.values.numpy()[for_row]
        return starts[:-1], columns, values


def _cosines_of_pairs(unit: torch.Tensor, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    step = max(1, _BLOCK_VALUES // max(2 * unit.shape[1], 1))
    found = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        found[part] = torch.einsum("nd,nd->n", unit[left[part]], unit[right[part]]).numpy()
    return found
