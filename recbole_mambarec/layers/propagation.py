"""Propagation over fixed graphs, shared by all graph models."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_mambarec.data.graphs.sparse import SparseGraph


def propagate(graph: SparseGraph, x: Tensor, n_layers: int) -> Tensor:
    """The last layer only: ``graph`` applied ``n_layers`` times to ``x`` of shape ``(n, d)``."""
    for _ in range(n_layers):
        x = graph.propagate(x)
    return x


def mean_of_layers(graph: SparseGraph, x: Tensor, n_layers: int) -> Tensor:
    """LightGCN's readout: the mean of ``x, Ax, ..., A^L x``, ``(n, d)`` (He et al., SIGIR 2020)."""
    total = x
    for _ in range(n_layers):
        x = graph.propagate(x)
        total = total + x
    return total / (n_layers + 1)


def light_gcn(graph: SparseGraph, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
    """:func:`mean_of_layers` on the user-item graph: ``(U, d), (I, d)`` -> the same shapes."""
    return split_nodes(mean_of_layers(graph, torch.cat([users, items]), n_layers), len(users))


def item_view(item_graph: SparseGraph, user_item: SparseGraph, items: Tensor, n_layers: int) -> Tensor:
    """Items ``(I, d)`` spread over their own graph, users as the sum over their items: nodes ``(U + I, d)``.

    Source: MGCN (arXiv 2308.03588), item-item view.
    """
    items = propagate(item_graph, items, n_layers)
    return torch.cat([user_item.propagate(items), items])


def split_nodes(nodes: Tensor, n_users: int) -> tuple[Tensor, Tensor]:
    """Rows of a user-item graph as (users, items)."""
    return nodes[:n_users], nodes[n_users:]
