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
        if among is not None:
            return self._among(users, among)
        count, (n_users, n_items) = len(users), self.shape
        # one row per distinct user, and a last one for everybody else
        place = users.new_full((n_users,), count).scatter_(0, users, torch.arange(count, device=users.device))
        seen = torch.zeros((count + 1) * n_items, device=users.device)
        seen = seen.scatter_(0, place[self.pairs[0]] * n_items + self.pairs[1], 1.0).view(count + 1, n_items)
        return seen[place[users]]

    def _among(self, users: Tensor, items: Tensor) -> Tensor:
        # the last row and the last column are for everybody and everything else
        places = []
        for nodes, n in ((users, self.shape[0]), (items, self.shape[1])):
            numbers = torch.arange(len(nodes), device=nodes.device)
            places.append(nodes.new_full((n,), len(nodes)).scatter_(0, nodes, numbers))
        rows, columns = (place[pair] for place, pair in zip(places, self.pairs))
        width = len(items) + 1
        seen = torch.zeros((len(users) + 1) * width, device=users.device)
        seen = seen.scatter_(0, rows * width + columns, 1.0).view(-1, width)
        return seen[places[0][users], :-1]
