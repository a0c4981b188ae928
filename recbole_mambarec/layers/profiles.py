"""User profiles: what a user's items say about them (CRANE, arXiv 2601.11151)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.value_checks import check_choice

# value of the key profile_norm -> weighting of a user's items
NORMS = {"mean": "mean", "sym": "symmetric"}


class UserProfiles(nn.Module):
    """Sums over a user's *training* items: their mean (``mean``), or each item by ``1 / sqrt(d_u d_i)`` (``sym``).

    If a user's profile contains the item that a model is to rank above another one, the question gives the answer away:
    the item's share of the profile identifies it, which no item of the validation or test split can do. :meth:`without`
    leaves that item out: a mean is then that of the user's other items; the weights of ``sym`` stay those of all
    interactions.

    Raises:
        UserError: unknown ``norm``.
    """

    user_degree: Tensor
    item_degree: Tensor
    active_users: Tensor | None

    def __init__(self, data: TrainingData, norm: str = "mean") -> None:
        super().__init__()
        self.norm = check_choice("profile_norm", norm, NORMS)
        self.user_item = data.user_item_weighted(NORMS[norm])
        users, items = data.pairs
        self.register_buffer("user_degree", _degrees(users, data.n_users), persistent=False)
        self.register_buffer("item_degree", _degrees(items, data.n_items), persistent=False)
        active = torch.from_numpy(np.unique(users).astype(np.int64))
        # None where all users have items: indexing with all of them would copy
        self.register_buffer("active_users", None if len(active) == data.n_users else active, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Profiles ``(U, w)`` of item rows ``(I, w)``; zeros for a user without items."""
        return self.user_item.propagate(x)

    def non_empty(self, profiles: Tensor) -> Tensor:
        """Of profiles ``(U, w)`` the rows of users who have items, so that statistics over them mean something."""
        return profiles if self.active_users is None else profiles[self.active_users]

    def is_empty(self, users: Tensor | None = None, excluding: int = 0) -> Tensor:
        """Whether nothing is left of a user's profile when ``excluding`` items are left out; bool.

        Args:
            users: ``(B,)``; all users by default.
        """
        return (self.user_degree if users is None else self.user_degree[users]) <= excluding

    def without(self, profiles: Tensor, x: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Profiles ``(B, w)`` of ``users``, each without the item of its row.

        Args:
            profiles: the whole profiles of ``users``, ``(B, w)``, which :meth:`forward` has made of ``x``.
            x: item rows ``(I, w)``.
            users, items: training interactions, ``(B,)`` each. A user who has this item alone gets zeros, up to
                rounding.
        """
        n = self.user_degree[users][:, None]
        if self.norm == "mean":
            return (n * profiles - x[items]) / (n - 1).clamp(min=1)
        return profiles - x[items] * torch.rsqrt(n * self.item_degree[items][:, None])


def _degrees(nodes: np.ndarray, count: int) -> Tensor:
    return torch.from_numpy(np.bincount(nodes, minlength=count).astype(np.float32))
