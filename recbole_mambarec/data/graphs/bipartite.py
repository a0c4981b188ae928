"""User-item graphs from the interactions of a split, and the pruning of their edges.

``users`` and ``items`` are the ends of the interactions, integer arrays of shape ``(E,)`` each. A pair that occurs
twice counts once.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from recbole_mambarec.data.graphs.sparse import SparseGraph, inverse_sqrt


def interaction_matrix(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sp.csr_array:
    """Binary float32 matrix ``(n_users, n_items)`` of the interactions."""
    ones = np.ones(len(users), dtype=np.float32)
    matrix = sp.coo_array((ones, (users, items)), shape=(n_users, n_items)).tocsr()
    matrix.data[:] = 1.0
    return matrix


def normalised_interactions(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sp.csr_array:
    """``1 / sqrt(d_u d_i)`` for each interaction, float64 ``(n_users, n_items)``; degrees are those of the pairs given.

    This is the user x item block of the symmetrically normalised adjacency.
    """
    matrix = interaction_matrix(users, items, n_users, n_items).astype(np.float64)
    scale_users = inverse_sqrt(matrix.sum(axis=1))
    scale_items = inverse_sqrt(matrix.sum(axis=0))
    return (sp.diags_array(scale_users) @ matrix @ sp.diags_array(scale_items)).tocsr()


def user_item_block(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, weighting: str = "symmetric"
) -> SparseGraph:
    """The user x item block of the bipartite adjacency, ``(n_users, n_items)``.

    Degrees are counted in the interactions given (the training ones); a node without any keeps an empty row.

    Args:
        weighting: ``symmetric``: each edge weighs ``1 / sqrt(d_u d_i)``; ``mean``: ``1 / d_u``, so that a user gets the
            mean of their items; ``binary``: 1.

    Raises:
        ValueError: unknown ``weighting``.
    """
    if weighting == "symmetric":
        return SparseGraph(normalised_interactions(users, items, n_users, n_items))
    matrix = interaction_matrix(users, items, n_users, n_items)
    if weighting == "mean":
        return SparseGraph(_row_means(matrix))
    if weighting == "binary":
        return SparseGraph(matrix)
    raise ValueError(f"unknown weighting '{weighting}': use 'symmetric', 'mean' or 'binary'")


def bipartite_adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> SparseGraph:
    """``D^-1/2 A D^-1/2`` of the user-item graph without self-loops, shape ``(U + I, U + I)``, users first.

    It is not cached on disk: building it takes less time than fingerprinting its input would.
    """
    block = normalised_interactions(users, items, n_users, n_items)
    return SparseGraph(sp.block_array([[None, block], [block.T, None]], format="csr"), symmetric=True)


def mean_adjacency(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, self_loops: bool = False
) -> SparseGraph:
    """``D^-1 A`` of the user-item graph, ``(U + I, U + I)``: every node gets the mean of its neighbours, or zero.

    Args:
        self_loops: count every node among its own neighbours (LATTICE, MVGAE).
    """
    block = interaction_matrix(users, items, n_users, n_items)
    matrix = sp.block_array([[None, block], [block.T, None]], format="csr")
    if self_loops:
        matrix = matrix + sp.eye_array(n_users + n_items, dtype=matrix.dtype, format="csr")
    return SparseGraph(_row_means(matrix))


def _row_means(matrix: sp.csr_array) -> sp.csr_array:
    """``D^-1 A``: every row that has entries sums to 1."""
    degrees = matrix.astype(np.float64).sum(axis=1)
    return sp.diags_array(np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)) @ matrix


def n_edges_kept(n_edges: int, rate: float) -> int:
    """How many of ``n_edges`` edges remain when the share ``rate`` of them is dropped."""
    return int(n_edges * (1 - rate))


def prune_edges(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, rate: float, by_degree: bool = True
) -> np.ndarray:
    """Degree-sensitive pruning: which interactions to keep when the share ``rate`` of them is dropped.

    They are drawn without replacement with probabilities proportional to ``1 / sqrt(d_u d_i)``, from torch's global
    generator, so that a seed repeats the draw and a checkpoint continues it. Each edge gets an exponential variate
    divided by its weight, and the smallest are kept: the Gumbel-top-k trick, which, unlike ``torch.multinomial``, has
    no limit on the number of edges. Source: FREEDOM (arXiv 2211.06924).

    Args:
        users, items: distinct pairs, ``(E,)`` each.
        rate: share to drop, in [0, 1).
        by_degree: False gives all edges the same probability (LayerGCN).

    Returns:
        Ascending positions of the ``int(E * (1 - rate))`` kept pairs.

    Raises:
        ValueError: ``rate`` is out of range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the share of pruned edges must be in [0, 1), got {rate}")
    user_degrees, item_degrees = np.bincount(users, minlength=n_users), np.bincount(items, minlength=n_items)
    weights = 1.0 / np.sqrt(user_degrees[users] * item_degrees[items]) if by_degree else np.ones(len(users))
    arrivals = torch.empty(len(users), dtype=torch.float64).exponential_() / torch.from_numpy(weights)
    kept = arrivals.topk(n_edges_kept(len(users), rate), largest=False, sorted=False).indices
    return np.sort(kept.numpy())
