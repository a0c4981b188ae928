"""Scores of which few are not zero, listed for each row."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn


class ListedScores(nn.Module):
    """The entries of a sparse matrix of scores, looked up on any device without waiting for it.

    Rows and items are numbered from 1, as RecBole numbers users and items: row 0 is empty, and the scores of item 0
    have no meaning. The entries follow the module to its device and are not saved.

    Args:
        scores: float32 ``(n_rows, n_items)``.
    """

    pairs: Tensor
    values: Tensor
    starts: Tensor

    def __init__(self, scores: sp.csr_array) -> None:
        super().__init__()
        n_rows, n_items = scores.shape
        self.n_columns = n_items + 1
        scores.sort_indices()
        # the numbers of row and item in one, ascending; a row's entries lie between its start and the next
        rows = np.repeat(np.arange(1, n_rows + 1, dtype=np.int64), np.diff(scores.indptr))
        starts = np.concatenate([[0], scores.indptr]).astype(np.int64)
        pairs = rows * self.n_columns + scores.indices + 1
        self.longest = int(np.diff(starts).max())
        values = scores.data
        if not len(pairs):  # places are looked up in any case
            pairs, values = np.array([-1]), np.zeros(1, dtype=np.float32)
        for name, array in (("pairs", pairs), ("values", values), ("starts", starts)):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def of_pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs of a row and an item, ``(B,)``."""
        wanted = rows * self.n_columns + items
        places = torch.searchsorted(self.pairs, wanted).clamp_max(len(self.pairs) - 1)
        return torch.where(self.pairs[places] == wanted, self.values[places], 0.0)

    def of_users(self, rows: Tensor) -> Tensor:
        """Scores of rows ``(B,)`` for all items, ``(B, n_items + 1)``."""
        rows = rows[:, None]
        # as many entries as the longest list has, so that no size depends on values
        places = self.starts[rows] + torch.arange(self.longest, device=rows.device)
        there = places < self.starts[rows + 1]
        places = places.clamp_max(len(self.pairs) - 1)
        items = torch.where(there, self.pairs[places] - rows * self.n_columns, 0)
        scores = torch.zeros(len(rows), self.n_columns, device=rows.device)
        return scores.scatter_(1, items, self.values[places])

    def matrix(self) -> sp.csr_array:
        """The scores that were given."""
        pairs, values, starts = (tensor.cpu().numpy() for tensor in (self.pairs, self.values, self.starts))
        shape, count = (len(starts) - 2, self.n_columns - 1), starts[-1]
        return sp.csr_array((values[:count], pairs[:count] % self.n_columns - 1, starts[1:]), shape=shape)
