"""User preferences and mapped item features of one modality (DualGNN, DRAGON, MENTOR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.noise import signed_node_noise
from recbole_mambarec.layers.unit import unit_rows

# the published code always makes two hops, whatever its n_layers says
HOPS = 2


class PreferenceBranch(nn.Module):
    """One modality on the user-item graph: ``x + Ax + A^2 x`` with x the rows of [preferences; MLP(features)].

    Rows of x have length 1; A is the normalised adjacency. Source: DualGNN (TMM 2023), whose layer DRAGON and MENTOR
    share.

    Args:
        n_users: number of users, each with a trained preference of width ``dim``.
        in_dim: width of the item features.
        hidden_dim: width of the MLP's hidden layer.
        dim: embedding width d.
    """

    def __init__(self, n_users: int, in_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.preference = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, dim)))
        self.mlp = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.LeakyReLU(), nn.Linear(hidden_dim, dim))

    def forward(self, features: Tensor, graph: SparseGraph, noisy: bool = False) -> Tensor:
        """Item features ``(I, in_dim)`` -> nodes, users first, ``(U + I, d)``.

        Args:
            features: raw features of all items.
            graph: normalised user-item graph.
            noisy: add noise after each hop; the next hop spreads the noisy nodes (MENTOR).
        """
        x = total = unit_rows(torch.cat([self.preference, self.mlp(features).float()]))
        for _ in range(HOPS):
            x = graph.propagate(x)
            x = signed_node_noise(x) if noisy else x
            total = total + x
        return total
