"""Rows of the user-item matrix for a batch of users."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class SeenItems(nn.Module):
    """Rows of the matrix of training interactions, without reading a value from the device.

    Args:
        users, items: distinct interactions, ``(E,)`` each.
        n_users, n_items: shape of the matrix.
    """

    pairs: Tensor

    def __init__(self, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> None:
        super().__init__()
        self.shape = n_users, n_items
        self.register_buffer("pairs", torch.from_numpy(np.stack([users, items]).astype(np.int64)), persistent=False)

    def forward(self, users: Tensor, among: Tensor | None = None) -> Tensor:
        """1 where an item is among the user's training items, else 0: ``(B,)`` -> ``(B, I)``.

        Args:
            users: of the rows.
            among: distinct items of the columns, ``(n,)``; all by default. Memory grows with them alone.
        """
        count, (n_users, n_items) = len(users), self.shape
        # one row per distinct user, and a last one for everybody else; columns likewise, where they are chosen
        place = _places(users, n_users)
        columns, width = self.pairs[1], n_items
        if among is not None:
            columns, width = _places(among, n_items)[columns], len(among) + 1
        seen = torch.zeros((count + 1) * width, device=users.device)
        seen = seen.scatter_(0, place[self.pairs[0]] * width + columns, 1.0).view(count + 1, width)
        rows = seen[place[users]]
        return rows if among is None else rows[:, :-1]


def _places(nodes: Tensor, count: int) -> Tensor:
    """Where each of ``count`` nodes stands in ``nodes`` ``(n,)``, and n for one that does not."""
    numbers = torch.arange(len(nodes), device=nodes.device)
    return nodes.new_full((count,), len(nodes)).scatter_(0, nodes, numbers)
