"""Linear models of items in closed form, and the graph of items with similar features; nothing here is trained.

W is a matrix of weights ``(n_items, n_items)``: row h has what a user's item h adds to the scores of all items.
Solutions are computed in float64 on the device of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.data.graphs.sparse import inverse_sqrt, largest_entries
from recbole_mambarec.data.rows import blocks
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.item_to_item import Factors
from recbole_mambarec.models.modality_shares import modality_shares

# values of small systems, or of rows of a product, that are held at a time (32 MiB as float64)
_BLOCK_VALUES = 1 << 22
SOLVERS = ("dense", "sparse")
# seconds that two cores took for the inverse of Amazon Baby's 7 050 items; it grows with their cube
_SECONDS, _ITEMS = 25, 7050
# time of a multiplication in a product of sparse matrices, measured in that of one in a product of dense ones
_SPARSE_COST = 130
# entries of centred unit rows that are rounding errors of float32
_ALIKE = 1e-6


def memory_of_matrices(model: str, config, data: TrainingData, matrices: float) -> StepMemory:
    """Memory of float64 matrices of all pairs of items.

    Args:
        matrices: how many there are at the peak.

    Raises:
        UserError: there are more than ``dense_items`` items.
    """
    n_items, limit = data.n_items, config["dense_items"]
    if n_items > limit:
        minutes = _SECONDS * (n_items / _ITEMS) ** 3 / 60
        raise UserError(
            f"{model} on {n_items} items would hold {matrices:g} matrices of all pairs of items, "
            f"{8 * n_items**2 / 2**30:.0f} GiB each, and compute with them for about {minutes:.0f} minutes on two "
            f"cores: set solver=sparse, whose memory is linear in the items, or raise dense_items, which is {limit}"
        )
    arrays = matrices * 2 * n_items / config["embedding_size"]
    return StepMemory(users=(0, 0), items=(arrays, 0), edges=(0, 0), batch=(0, 0), tables=0)


def weighted_history(data: TrainingData, user_discount: float) -> sp.csr_array:
    """Training interactions, float64 ``(n_users, n_items)``; the square of an entry is the weight of its user.

    A user with n interactions has a weight proportional to ``n^-user_discount``. The mean weight of an interaction is
    1, so that a ridge penalty means the same for all discounts.
    """
    history = data.history.astype(np.float64)
    counts = history.sum(axis=1)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -user_discount, 0.0)
    weights *= counts.sum() / max(weights @ counts, 1e-300)
    return (sp.diags_array(np.sqrt(weights)) @ history).tocsr()


# ------------------------------------------------------------------------------------------------------------
# EASE


def ease(
    gram: np.ndarray, reg: float, target: np.ndarray | None = None, device: str | torch.device = "cpu"
) -> np.ndarray:
    """The W with a zero diagonal that minimises ``|X - XW|^2 + reg |W|^2`` (Steck, WWW 2019), float32.

    Args:
        gram: ``X'X``, float64; it is overwritten.
        reg: ridge penalty, above 0.
        target: W minimises ``|X - XW|^2 + reg |W - target|^2`` instead.
    """
    matrix = torch.from_numpy(gram).to(device)
    matrix.diagonal().add_(reg)
    if target is None:
        # in place: no second matrix of this size is left behind
        torch.cholesky_inverse(torch.linalg.cholesky(matrix, out=matrix), out=matrix)
        solution = matrix.div_(-matrix.diagonal().clone())
    else:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        # (X'X + reg) W = X'X + reg target - diagonal, whose multipliers make the diagonal of W zero
        right = torch.from_numpy(target).to(inverse).mul_(reg).add_(matrix)
        right.diagonal().sub_(reg)
        solution = inverse @ right
        solution -= inverse * (solution.diagonal() / inverse.diagonal())
    solution.fill_diagonal_(0.0)
    # rows side by side: factorisations leave columns so, and every product with a sparse matrix would copy them
    return solution.float().cpu().contiguous().numpy()


def sparse_ease(history: sp.csr_array, candidates: sp.csr_array, reg: float) -> sp.csr_array:
    """:func:`ease` in which an item is predicted from its candidates alone, float32.

    Each column is the solution of a small system of its own, exact if all items are candidates. Memory is linear in the
    items, but for the matrix of the pairs of items that have a user in common.

    Args:
        history: X, ``(n_users, n_items)``.
        candidates: row i has an entry for each item that predicts item i, and none for i itself.
    """
    n_items = history.shape[1]
    gram = (history.T @ history).tocsr()
    gram.sort_indices()
    pairs = np.repeat(np.arange(n_items, dtype=np.int64), np.diff(gram.indptr)) * n_items + gram.indices

    def entries(rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
        wanted = rows * n_items + columns
        places = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        return torch.from_numpy(np.where(pairs[places] == wanted, gram.data[places], 0.0))

    sizes = np.diff(candidates.indptr)
    k = max(int(sizes.max()), 1)
    there = np.arange(k) < sizes[:, None]
    lists = np.zeros((n_items, k), dtype=np.int64)
    lists[there] = candidates.indices
    solved = np.zeros((n_items, k), dtype=np.float32)
    step = max(1, _BLOCK_VALUES // k**2)
    for start in range(0, n_items, step):
        rows = slice(start, min(start + step, n_items))
        own, filled = lists[rows], torch.from_numpy(there[rows])
        systems = entries(own[:, :, None], own[:, None, :]) * (filled[:, :, None] & filled[:, None, :])
        systems.diagonal(dim1=1, dim2=2).add_(reg)
        right = entries(own, np.arange(rows.start, rows.stop)[:, None]) * filled
        solved[rows] = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(systems))[:, :, 0].float().numpy()
    columns = np.repeat(np.arange(n_items), sizes)
    return sp.coo_array((solved[there], (candidates.indices, columns)), shape=(n_items, n_items)).tocsr()


# ------------------------------------------------------------------------------------------------------------
# features


class LinearFeatures(NamedTuple):
    """:func:`ease` on features, as factors, from whose product the diagonal ``own`` is to be subtracted."""

    factors: Factors
    own: np.ndarray


def centred_features(data: TrainingData, width: int, weights: object, history: sp.csr_array) -> np.ndarray:
    """Unit rows of each modality less their mean, side by side, float64 ``(n_items, columns)``.

    A modality is multiplied with the root of its share (:func:`modality_shares`). An item that lacks one has zeros
    there.

    Args:
        width: principal components that are kept of each modality; 0: all of its columns as they are.
        weights: the key ``modality_weights``.
        history: training interactions.
    """
    parts = {name: _centred(data, name, width) for name in data.modalities}
    shares = modality_shares(weights, {name: Factors(part, part) for name, part in parts.items()}, history)
    return np.concatenate([np.sqrt(share) * parts[name] for name, share in shares.items() if share], axis=1)


def _centred(data: TrainingData, modality: str, width: int) -> np.ndarray:
    features, present = data.features(modality), data.present(modality)
    n_items, columns = features.shape
    centred = np.zeros((n_items, columns))
    for place, rows in blocks(features):
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        centred[place] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    centred -= centred[present].mean(axis=0)
    centred[~present] = 0.0
    # of items that are all alike, rounding errors would be left: the same for all, they explain who is popular
    if np.abs(centred).max(initial=0.0) < _ALIKE:
        centred[:] = 0.0
    if not 0 < width < columns:
        return centred
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, : -width - 1 : -1]


def linear_features(features: np.ndarray, reg: float) -> LinearFeatures:
    """:func:`ease` with the columns of ``features`` in place of users, in time and memory linear in the items.

    By Woodbury's identity, the inverse of ``FF' + reg`` needs only that of ``F'F + reg``: with ``M`` the latter,
    ``W_ij = f_i' M f_j / (1 - f_j' M f_j)``.
    """
    inner = features.T @ features
    inner[np.diag_indices_from(inner)] += reg
    projected = np.linalg.solve(inner, features.T).T
    leverage = np.einsum("ij,ij->i", features, projected)
    target = projected / (1.0 - leverage)[:, None]
    return LinearFeatures(Factors(features, target), leverage / (1.0 - leverage))


def neighbour_lists(data: TrainingData, k: int, weights: object, history: sp.csr_array) -> sp.csr_array:
    """Row h has the cosines of item h with its ``k`` nearest items in each modality, times the modality's share."""
    lists = {name: _as_matrix(data.neighbours(name, k + 1).without_self()) for name in data.modalities}
    shares = modality_shares(weights, lists, history)
    total = sum(share * lists[name] for name, share in shares.items())
    return sp.csr_array(total)


def _as_matrix(neighbours: Neighbours) -> sp.csr_array:
    rows, columns, cosines = neighbours.edges()
    n_items = len(neighbours.indices)
    return sp.coo_array((np.maximum(cosines, 0.0), (rows, columns)), shape=(n_items, n_items)).tocsr()


def symmetric_graph(lists: sp.csr_array) -> sp.csr_array:
    """``D^-1/2 A D^-1/2`` with A the mean of ``lists`` and its transpose, D its row sums, float32."""
    both = (lists + lists.T) / 2
    scale = sp.diags_array(inverse_sqrt(both.sum(axis=1).astype(np.float64)))
    return sp.csr_array((scale @ both @ scale).astype(np.float32))


def dense_if_faster(graph: sp.csr_array) -> sp.csr_array | np.ndarray:
    """The graph, ``(n, n)``, as a dense float32 matrix if products with itself are computed faster so."""
    multiplications = float(np.square(np.diff(graph.indptr).astype(np.float64)).sum())
    return graph.astype(np.float32).toarray() if _SPARSE_COST * multiplications > graph.shape[0] ** 3 else graph


# ------------------------------------------------------------------------------------------------------------
# weights


def balance(squares: np.ndarray, discount: float) -> np.ndarray:
    """Factors for the rows of W: each row is divided by its length to the power ``discount``, all by the mean length.

    Args:
        squares: squared lengths of the rows, ``(n_items,)``.
    """
    lengths = np.sqrt(np.maximum(squares.astype(np.float64), 0.0))
    scale = np.where(lengths > 0, np.maximum(lengths, 1e-300) ** -discount, 0.0)
    mean = (lengths * scale).mean()
    return scale / mean if mean > 0 else scale


def balanced(weights, discount: float):
    """A matrix of weights, dense or sparse, with its rows multiplied by their :func:`balance`."""
    if isinstance(weights, np.ndarray):
        weights *= balance(np.einsum("ij,ij->i", weights, weights), discount)[:, None].astype(np.float32)
        return weights
    scale = balance(weights.power(2).sum(axis=1), discount)
    return sp.csr_array(sp.diags_array(scale.astype(np.float32)) @ weights)


def balanced_features(linear: LinearFeatures, discount: float) -> LinearFeatures:
    """:func:`balanced` for factors; their product has no diagonal."""
    source, target = linear.factors
    squares = np.einsum("ij,ij->i", source @ (target.T @ target), source) - linear.own**2
    scale = balance(squares, discount)
    return LinearFeatures(Factors(source * scale[:, None], target), linear.own * scale)


def scale_of_new_items(squares: Callable[[], np.ndarray], data: TrainingData, relative: float) -> np.ndarray:
    """Factors for the columns of W that lift items without training interactions to the others, ``(n_items,)``.

    What features alone say of an item is small beside what interactions say, so that such items would be ranked behind
    all others. Their columns are multiplied with one number, so that they are ``relative`` times as long as those of
    the others (root mean square); the others, and all of them with ``relative`` 0, have the factor 1.

    Args:
        squares: computes the squared lengths of the columns, ``(n_items,)``, if there are such items.

    Raises:
        UserError: ``relative`` is negative.
    """
    if relative < 0:
        raise UserError(f"cold_scale must not be negative, got {relative}")
    known = data.known_items
    scale = np.ones(data.n_items)
    if relative and not known.all():
        lengths = squares()
        # nothing may lead to them: no features, or no weight of what there is
        if lengths[~known].any():
            scale[~known] = relative * np.sqrt(lengths[known].mean() / lengths[~known].mean())
    return scale


def squared_columns(sparse: sp.csr_array, factors: Factors) -> np.ndarray:
    """Squared lengths of the columns of ``sparse + source @ target.T``, without it, float64 ``(n_items,)``."""
    source, target = (part.astype(np.float64) for part in factors)
    crossed = 2.0 * (sparse.T @ source) + target @ (source.T @ source)
    return sparse.power(2).sum(axis=0) + np.einsum("ij,ij->i", crossed, target)


def largest_of_rows(rows: Iterator[sp.csr_array], k: int) -> sp.csr_array:
    """Blocks of rows of a sparse matrix, one below the other, with the ``k`` largest entries of each row, float32."""
    kept = [_largest(block, k) for block in rows]
    return sp.csr_array(sp.vstack(kept, format="csr"))


def row_blocks(n_items: int) -> Iterator[slice]:
    """Rows of which a block may become dense."""
    step = max(1, _BLOCK_VALUES // n_items)
    yield from (slice(start, min(start + step, n_items)) for start in range(0, n_items, step))


def _largest(block: sp.csr_array, k: int) -> sp.csr_array:
    block = block.tocsr()
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    keep = largest_entries(rows, block.indices, block.data, k)
    entries = block.data[keep].astype(np.float32), (rows[keep], block.indices[keep])
    return sp.coo_array(entries, shape=block.shape).tocsr()
