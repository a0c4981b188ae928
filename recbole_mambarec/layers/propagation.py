"""Propagation over fixed graphs."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.unit import row_cosines


class Graph(Protocol):
    """What multiplies embeddings: a :class:`SparseGraph`, or a module that holds one."""

    def propagate(self, x: Tensor) -> Tensor:
        """The graph times ``x``, ``(columns, d)`` -> ``(rows, d)``."""


def propagate(graph: Graph, x: Tensor, n_layers: int) -> Tensor:
    """The last layer only: ``graph`` ``(n, n)`` applied ``n_layers`` times to ``x``, ``(n, d)``."""
    for _ in range(n_layers):
        x = graph.propagate(x)
    return x


def sum_of_layers(graph: Graph, x: Tensor, n_layers: int) -> Tensor:
    """``x + Ax + ... + A^L x``, ``(n, d)``."""
    total = x
    for _ in range(n_layers):
        x = graph.propagate(x)
        total = total + x
    return total


def mean_of_layers(graph: Graph, x: Tensor, n_layers: int) -> Tensor:
    """LightGCN's readout: the mean of ``x, Ax, ..., A^L x``, ``(n, d)`` (He et al., SIGIR 2020)."""
    return sum_of_layers(graph, x, n_layers) / (n_layers + 1)


def similar_layers(graph: Graph, start: Tensor, n_layers: int, with_start: bool) -> Tensor:
    """Sum of layers ``(n, d)`` in which each row is weighted with its cosine to the row it started from.

    A layer spreads the weighted rows of the one before. Source: LayerGCN (ICDE 2023, arXiv 2207.11088).

    Args:
        graph: the graph to spread over.
        start: layer 0, ``(n, d)``.
        n_layers: layers after it.
        with_start: layer 0 is part of the sum (COHESION).
    """
    x, total = start, start if with_start else torch.zeros_like(start)
    for _ in range(n_layers):
        received = graph.propagate(x)
        x = row_cosines(received, start) * received
        total = total + x
    return total


def light_gcn(graph: Graph, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
    """:func:`mean_of_layers` on the user-item graph: ``(U, d), (I, d)`` -> the same shapes."""
    return split_nodes(mean_of_layers(graph, torch.cat([users, items]), n_layers), len(users))


def item_view(item_graph: SparseGraph, user_item: SparseGraph, items: Tensor, n_layers: int) -> Tensor:
    """Items propagated over their own graph, users as sums of their items: nodes ``(U + I, d)``.

    Source: MGCN (arXiv 2308.03588), item-item view.

    Args:
        item_graph: ``(I, I)``, applied ``n_layers`` times.
        user_item: ``(U, I)``, the weights of a user's items.
        items: ``(I, d)``.
    """
    items = propagate(item_graph, items, n_layers)
    return torch.cat([user_item.propagate(items), items])


def split_nodes(nodes: Tensor, n_users: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(U + I, d)`` as users ``(U, d)`` and items ``(I, d)``."""
    return nodes[:n_users], nodes[n_users:]
