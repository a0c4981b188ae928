"""What users are, as far as their items tell (CRANE, arXiv 2601.11151)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import one_of

# weighting of a user's items, by value of the key profile_norm
NORMS = {"mean": "mean", "sym": "symmetric"}


class UserProfiles(nn.Module):
    """Sums of what a user's *training* items are: means (``mean``), or each item by ``1 / sqrt(d_u d_i)`` (``sym``).

    A model that ranks an item above another one for a user whose profile contains the first sees the answer in the
    question: the pair is told apart by that item's share of the profile, which no item of the validation or test split
    has. :meth:`without` gives the profile without the interaction in question: a mean is then that over the user's
    other items; the weights of ``sym`` stay those of all interactions.

    Raises:
        UserError: unknown ``norm``.
    """

    def __init__(self, data: TrainingData, norm: str = "mean") -> None:
        super().__init__()
        self.norm = one_of("profile_norm", norm, NORMS)
        self.user_item = data.user_item_weighted(NORMS[norm])
        for name, nodes, count in zip(("of_users", "of_items"), data.pairs, (data.n_users, data.n_items)):
            degrees = torch.from_numpy(np.bincount(nodes, minlength=count).astype(np.float32))
            self.register_buffer(name, degrees, persistent=False)
        having = torch.from_numpy(np.unique(data.pairs[0]).astype(np.int64))
        # None: all users; a selection of all of them would be a copy
        self.register_buffer("having", None if len(having) == data.n_users else having, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Profiles ``(U, w)`` of ``(I, w)``; zeros for a user without items."""
        return self.user_item.propagate(x)

    def known(self, profiles: Tensor) -> Tensor:
        """The profiles of users who have items, whose statistics mean something."""
        return profiles if self.having is None else profiles[self.having]

    def nobody(self, users: Tensor | None = None, left_out: int = 0) -> Tensor:
        """Whether each of ``users`` (default: all) has ``left_out`` items at most, so that no profile is left; bool."""
        return (self.of_users if users is None else self.of_users[users]) <= left_out

    def without(self, own: Tensor, x: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Profiles ``(B, w)`` of ``users``, each without the one of ``items`` in its row, which the user has.

        Args:
            own: the whole profiles of ``users``, ``(B, w)``, which :meth:`forward` has made of ``x``.
            users, items: ``(B,)``, training interactions. A user with this item alone gets zeros, up to rounding.
        """
        n = self.of_users[users][:, None]
        if self.norm == "mean":
            return (n * own - x[items]) / (n - 1).clamp(min=1)
        return own - x[items] * torch.rsqrt(n * self.of_items[items][:, None])
