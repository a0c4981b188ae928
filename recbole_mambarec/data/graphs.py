"""User-item and item-item graphs: built once, on arrays, and propagated as CSR matrices.

Node numbers here are those of the real users and items, from 0; RecBole's padding row does not exist in a graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_mambarec.data.rows import Rows

# both say what we know when a CSR matrix is wrapped, once per process, in the middle of the training log
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")

# similarities held at a time while the neighbours are searched, in float32 values (128 MiB)
_BLOCK_VALUES = 1 << 25
# raise it when the search or its tie rule changes, so that kept neighbour lists are not taken for new ones
NEIGHBOURS_VERSION = 1


class SparseGraph(nn.Module):
    """A fixed sparse matrix with a stored transpose, ready to be multiplied with embeddings.

    The arrays are buffers that are not saved with a model: they follow ``model.to(device)`` and are rebuilt from the
    data when a checkpoint is loaded.

    Args:
        matrix: scipy sparse matrix, shape ``(rows, columns)``; row = receiving node.
        symmetric: the matrix equals its transpose, which is then not stored.
    """

    def __init__(self, matrix: sp.sparray | sp.spmatrix, symmetric: bool = False) -> None:
        super().__init__()
        self.shape = tuple(matrix.shape)
        self.symmetric = symmetric
        self._store("forward", sp.csr_array(matrix))
        if not symmetric:
            self._store("backward", sp.csr_array(matrix.T))

    def _store(self, side: str, matrix: sp.csr_array) -> None:
        matrix.sort_indices()
        # 32-bit indices are what MKL's and cuSPARSE's kernels take without a conversion per product
        index = np.int32 if matrix.nnz < 2**31 - 1 else np.int64
        self.register_buffer(f"{side}_rows", torch.from_numpy(matrix.indptr.astype(index)), persistent=False)
        self.register_buffer(f"{side}_columns", torch.from_numpy(matrix.indices.astype(index)), persistent=False)
        self.register_buffer(f"{side}_values", torch.from_numpy(matrix.data.astype(np.float32)), persistent=False)

    @property
    def n_edges(self) -> int:
        """Number of stored entries."""
        return len(self.forward_values)

    def csr(self, transposed: bool = False) -> Tensor:
        """The matrix (or its transpose) as a ``torch.sparse_csr`` tensor that shares the buffers."""
        side = "backward" if transposed and not self.symmetric else "forward"
        shape = self.shape[::-1] if transposed else self.shape
        return torch.sparse_csr_tensor(
            getattr(self, f"{side}_rows"),
            getattr(self, f"{side}_columns"),
            getattr(self, f"{side}_values"),
            size=shape,
            check_invariants=False,
        )

    def propagate(self, x: Tensor) -> Tensor:
        """Matrix times ``x``: ``(columns, d)`` -> ``(rows, d)`` float32, differentiable in ``x``."""
        return _Propagate.apply(x.float(), self)

    def forward(self, x: Tensor) -> Tensor:
        """Same as :meth:`propagate`."""
        return self.propagate(x)

    def replace(self, other: SparseGraph) -> None:
        """Become ``other``, of the same shape: for a module that keeps its place in a model while its edges change.

        Raises:
            ValueError: the shapes differ, or only one of the two stores its transpose.
        """
        if (self.shape, self.symmetric) != (other.shape, other.symmetric):
            raise ValueError(f"a graph of shape {self.shape} cannot become one of shape {other.shape}")
        for name, values in other.named_buffers():
            setattr(self, name, values)

    def scipy(self) -> sp.csr_array:
        """A copy as a scipy CSR array."""
        parts = (self.forward_values, self.forward_columns, self.forward_rows)
        return sp.csr_array(tuple(part.cpu().numpy() for part in parts), shape=self.shape)

    def extra_repr(self) -> str:
        """Shape and edge count for ``print(model)``."""
        return f"{self.shape[0]} x {self.shape[1]}, {self.n_edges} edges"


class _Propagate(torch.autograd.Function):
    """Sparse product whose backward pass multiplies with the stored transpose instead of transposing each time."""

    @staticmethod
    def forward(ctx, x: Tensor, graph: SparseGraph) -> Tensor:
        ctx.graph = graph
        with torch.autocast(x.device.type, enabled=False):
            return graph.csr() @ x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(gradient.device.type, enabled=False):
            return ctx.graph.csr(transposed=True) @ gradient.contiguous(), None


def interaction_matrix(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sp.csr_array:
    """Binary ``(n_users, n_items)`` matrix of interactions; a pair that occurs twice counts once."""
    ones = np.ones(len(users), dtype=np.float32)
    matrix = sp.coo_array((ones, (users, items)), shape=(n_users, n_items)).tocsr()
    matrix.data[:] = 1.0
    return matrix


def user_item_block(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, weighting: str = "symmetric"
) -> SparseGraph:
    """The user x item block of the bipartite adjacency.

    Degrees are counted in the interactions given (the training ones); a node without any keeps an empty row.

    Args:
        weighting: ``symmetric``: each edge weighs ``1 / sqrt(d_u d_i)``; ``mean``: ``1 / d_u``, so that a user gets the
            mean of their items; ``binary``: 1.
    """
    if weighting == "symmetric":
        return SparseGraph(_normalised_block(users, items, n_users, n_items))
    matrix = interaction_matrix(users, items, n_users, n_items)
    if weighting == "mean":
        return SparseGraph(_row_means(matrix))
    if weighting == "binary":
        return SparseGraph(matrix)
    raise ValueError(f"unknown weighting '{weighting}': use 'symmetric', 'mean' or 'binary'")


def bipartite_adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> SparseGraph:
    """``D^-1/2 A D^-1/2`` of the user-item graph without self-loops, shape ``(U + I, U + I)``, users first.

    It is not kept on disk: building it takes less time than fingerprinting its input would.
    """
    block = _normalised_block(users, items, n_users, n_items)
    return SparseGraph(sp.block_array([[None, block], [block.T, None]], format="csr"), symmetric=True)


def mean_adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> SparseGraph:
    """``D^-1 A`` of the user-item graph, ``(U + I, U + I)``: every node gets the mean of its neighbours, or zero."""
    block = interaction_matrix(users, items, n_users, n_items)
    return SparseGraph(_row_means(sp.block_array([[None, block], [block.T, None]], format="csr")))


def _row_means(matrix: sp.csr_array) -> sp.csr_array:
    """``D^-1 A``: every row that has entries sums to 1."""
    degrees = matrix.astype(np.float64).sum(axis=1)
    return sp.diags_array(np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)) @ matrix


def edges_kept(count: int, rate: float) -> int:
    """How many of ``count`` edges are left when the share ``rate`` is dropped."""
    return int(count * (1 - rate))


def prune_edges(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, rate: float) -> np.ndarray:
    """Degree-sensitive pruning: indices, ascending, of the ``int(E * (1 - rate))`` interactions that are kept.

    They are drawn without replacement with probabilities proportional to ``1 / sqrt(d_u d_i)`` from torch's global
    generator, so a seed repeats them and a checkpoint continues them. The draw keeps the smallest of one exponential
    variate per edge over its weight, the Gumbel-top-k trick, which has no limit on the number of edges.
    Source: FREEDOM (arXiv 2211.06924).

    Args:
        users, items: distinct pairs.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the share of pruned edges must be in [0, 1), got {rate}")
    degrees = [np.bincount(ends, minlength=count) for ends, count in ((users, n_users), (items, n_items))]
    weights = 1.0 / np.sqrt(degrees[0][users] * degrees[1][items])
    waiting = torch.empty(len(users), dtype=torch.float64).exponential_() / torch.from_numpy(weights)
    kept = waiting.topk(edges_kept(len(users), rate), largest=False, sorted=False).indices
    return np.sort(kept.numpy())


def bipartite_with_items(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, item_edges: tuple[np.ndarray, np.ndarray]
) -> SparseGraph:
    """``D^-1/2 A' D^-1/2`` of the user-item graph to which directed item-item edges are added; D are row sums.

    Source: GUME (arXiv 2407.12338).

    Args:
        item_edges: (receiving item, sending item) of each edge, distinct, no item with itself.
    """
    block = interaction_matrix(users, items, n_users, n_items).astype(np.float64)
    among = sp.coo_array((np.ones(len(item_edges[0])), item_edges), shape=(n_items, n_items))
    matrix = sp.block_array([[None, block], [block.T, among]], format="csr")
    scale = sp.diags_array(_inverse_sqrt(matrix.sum(axis=1)))
    return SparseGraph(scale @ matrix @ scale)


def principal_bipartite(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, rank: int) -> SparseGraph:
    """The user-item adjacency rebuilt from few singular vectors, ``(U + I, U + I)``, symmetric, not normalised again.

    Of the ``rank`` leading singular values s_0 >= s_1 ... of the normalised adjacency, the vectors of the first quarter
    (q of them) are kept, each weighted with s_j * s_(rank - q + j); entries below 0.001 in magnitude are dropped. The
    singular values of a bipartite adjacency are those of its user x item block, each twice, so half of them are
    computed. Both numbers are rounded down to pairs: which of a pair's vectors would be left out is chance. At most 8
    million entries can reach the threshold at rank 64, and they are found in blocks of users.
    Source: the global form of PGL (AAAI 2025).

    Raises:
        ValueError: there are not more users and items than vectors of the block, or less than one pair is kept.
    """
    half, kept, threshold = rank // 2, rank // 8, 1e-3
    if kept == 0:
        raise ValueError(f"a quarter of {rank} singular vectors is no pair of them")
    if min(n_users, n_items) <= half:
        raise ValueError(f"{half} singular vectors need more than {half} users and items, got {n_users} and {n_items}")
    left, values, right = leading_singular_vectors(users, items, n_users, n_items, half)
    left = left[:, :kept] * (values[:kept] * values[half - kept :])
    right = right[:kept]
    parts = []
    step = max(1, _BLOCK_VALUES // n_items)
    for first in range(0, n_users, step):
        dense = left[first : first + step] @ right
        dense[np.abs(dense) < threshold] = 0.0
        parts.append(sp.csr_array(dense))
    block = sp.vstack(parts, format="csr")
    return SparseGraph(sp.block_array([[None, block], [block.T, None]], format="csr"), symmetric=True)


def leading_singular_vectors(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular vectors and values of the user x item block of :func:`bipartite_adjacency`, largest first.

    Returns:
        Left vectors ``(n_users, count)``, values ``(count,)``, right vectors ``(count, n_items)``.
    """
    block = _normalised_block(users, items, n_users, n_items)
    # the starting vector is given, so that the result does not depend on numpy's global generator
    start = np.ones(min(n_users, n_items))
    left, values, right = scipy.sparse.linalg.svds(block, k=count, v0=start)
    order = np.argsort(-values)
    return left[:, order], values[order], right[order]


def _normalised_block(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sp.csr_array:
    matrix = interaction_matrix(users, items, n_users, n_items).astype(np.float64)
    scale_users = _inverse_sqrt(matrix.sum(axis=1))
    scale_items = _inverse_sqrt(matrix.sum(axis=0))
    return (sp.diags_array(scale_users) @ matrix @ sp.diags_array(scale_items)).tocsr()


def _inverse_sqrt(degrees: np.ndarray) -> np.ndarray:
    """``1 / sqrt(d)``, and 0 where the degree is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(degrees > 0, 1.0 / np.sqrt(degrees), 0.0)


@dataclass(frozen=True)
class Neighbours:
    """The ``k`` most similar items of each item, itself included.

    Attributes:
        indices: int32, shape ``(n_items, k)``, most similar first, so column 0 is the item itself; -1 where an item
            has fewer neighbours.
        cosines: float32, same shape; 1 for the item itself, 0 where the index is -1.
    """

    indices: np.ndarray
    cosines: np.ndarray


def nearest_neighbours(
    features: Rows | Tensor,
    k: int,
    present: np.ndarray | None = None,
    block: int | None = None,
    progress: bool = False,
) -> Neighbours:
    """Exact cosine top-k, row block by row block on all cores; memory is linear in the items.

    Args:
        features: float32, shape ``(n_items, dim)``: an array, rows that stay on disk, or a tensor, which is searched on
            its device; a zero row has cosine 0 with everything but itself.
        k: neighbours per item, itself included; more than there are items gives all of them.
        present: bool, shape ``(n_items,)``. An item that lacks the modality is linked to itself alone and is nobody's
            neighbour: its features are a stand-in that would otherwise make all such items neighbours of each other.
        block: rows searched at a time, and compared with at a time where they are on disk; by default as many as keep
            a block within 128 MiB.
        progress: show a progress bar.
    """
    n_items, dim = features.shape
    k = min(int(k), n_items)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    in_memory = isinstance(features, (np.ndarray, Tensor))
    if in_memory:
        unit = unit_rows(features)
        block = block or max(1, min(n_items, _BLOCK_VALUES // max(n_items, 1)))
    else:
        # rows that are searched, rows that they are compared with, and the similarities: three blocks
        block = block or max(1, min(n_items, int(_BLOCK_VALUES**0.5), _BLOCK_VALUES // max(dim, 1)))
    others = n_items if in_memory else block
    device = unit.device if in_memory else torch.device("cpu")
    absent = torch.zeros(n_items, dtype=torch.bool) if present is None else torch.from_numpy(~np.asarray(present, bool))
    absent = absent.to(device)
    indices = np.empty((n_items, k), dtype=np.int32)
    cosines = np.empty((n_items, k), dtype=np.float32)
    # one for all blocks: where freed memory is kept, new ones of this size find no place in it and pile up
    products = torch.empty(min(block, n_items) * min(others, n_items), device=device)
    starts = range(0, n_items, block)
    for start in tqdm(starts, desc="item neighbours", disable=not progress or len(starts) < 2, delay=2):
        stop = min(start + block, n_items)
        mine = unit[start:stop] if in_memory else unit_rows(features[start:stop])
        values = torch.empty(stop - start, 0, device=device)
        columns = torch.empty(stop - start, 0, dtype=torch.int64, device=device)
        for first in range(0, n_items, others):
            last = min(first + others, n_items)
            theirs = unit if in_memory else unit_rows(features[first:last])
            similarity = torch.mm(mine, theirs.T, out=products[: len(mine) * len(theirs)].view(len(mine), -1))
            similarity[:, absent[first:last]] = -torch.inf
            similarity[absent[start:stop], :] = -torch.inf
            # the item itself always comes first, also among items with equal features
            low, high = max(start, first), min(stop, last)
            itself = torch.arange(low, max(low, high), device=device)
            similarity[itself - start, itself - first] = torch.inf
            best = similarity.topk(min(k, last - first), dim=1)
            values = torch.cat([values, best.values], dim=1)
            columns = torch.cat([columns, best.indices + first], dim=1)
            if first > 0:
                values, kept = values.topk(min(k, values.shape[1]), dim=1)
                columns = columns.gather(1, kept)
        none = torch.isneginf(values)
        values[:, 0] = 1.0
        indices[start:stop] = columns.masked_fill(none, -1).cpu().numpy()
        cosines[start:stop] = values.masked_fill(none, 0.0).cpu().numpy()
    return Neighbours(indices, cosines)


def without_self(neighbours: Neighbours) -> Neighbours:
    """The lists of :func:`nearest_neighbours` less their first column, in which every item names itself."""
    return Neighbours(neighbours.indices[:, 1:], neighbours.cosines[:, 1:])


def unit_rows(rows: np.ndarray | Tensor) -> Tensor:
    """Rows divided by their lengths, float32, without gradient; zero rows stay zero."""
    tensor = rows if isinstance(rows, Tensor) else torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    return torch.nn.functional.normalize(tensor.detach().float(), dim=1)


def knn_graph(neighbours: Neighbours, weighting: str = "cosine") -> SparseGraph:
    """Directed item graph from neighbour lists: row i receives from the items in i's list.

    Args:
        neighbours: lists of :func:`nearest_neighbours`.
        weighting: ``cosine``: ``s_ij / sqrt(d_i d_j)`` with ``d`` the row sums of the kept cosines (LATTICE, MGCN,
            MambaRec); ``uniform``: every neighbour weighs ``1 / k``, rows sum to 1 (FREEDOM).
    """
    kept = neighbours.indices >= 0
    rows = np.repeat(np.arange(len(kept)), kept.sum(axis=1))
    columns = neighbours.indices[kept]
    shape = (len(kept), len(kept))
    if weighting == "cosine":
        cosines = neighbours.cosines[kept].astype(np.float64)
        degrees = np.bincount(rows, weights=cosines, minlength=len(kept))
        # cosines may be negative; a sum that is not positive means "no usable neighbours"
        scale = _inverse_sqrt(degrees)
        weights = cosines * scale[rows] * scale[columns]
    elif weighting == "uniform":
        weights = 1.0 / kept.sum(axis=1)[rows]
    else:
        raise ValueError(f"unknown weighting '{weighting}': use 'cosine' or 'uniform'")
    return SparseGraph(sp.coo_array((weights, (rows, columns)), shape=shape))


def shared_neighbours(lists: Sequence[Neighbours]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i != j, with j in every one of i's neighbour lists, as two arrays sorted by i, then j."""
    n_items = len(lists[0].indices)
    common: np.ndarray | None = None
    for neighbours in lists:
        kept = neighbours.indices >= 0
        rows = np.repeat(np.arange(n_items, dtype=np.int64), kept.sum(axis=1))
        codes = rows * n_items + neighbours.indices[kept]
        common = np.unique(codes) if common is None else np.intersect1d(common, codes)
    rows, columns = common // n_items, common % n_items
    return rows[rows != columns], columns[rows != columns]


@dataclass(frozen=True)
class CoUsers:
    """The users who share most training items with each user.

    Attributes:
        starts: int64, shape ``(n_users + 1,)``: the neighbours of user u are at ``starts[u]:starts[u + 1]``.
        users: their numbers, most shared items first, ties by number.
        counts: items shared with them.
        k: neighbours wanted.
    """

    starts: np.ndarray
    users: np.ndarray
    counts: np.ndarray
    k: int

    def graph(self, fill: bool = False) -> SparseGraph:
        """Neighbours weighted with the softmax of their counts; a user without neighbours receives nothing.

        Args:
            fill: bring the neighbours of a user to k by repeating some at random, drawn from torch's global generator
                (COHESION); a neighbour that is there n times weighs n-fold in the softmax.
        """
        sizes = np.diff(self.starts)
        times = np.ones(len(self.users))
        if fill:
            lacking = np.where(sizes > 0, self.k - sizes, 0)
            drawn_for = np.repeat(np.arange(len(sizes)), lacking)
            place = torch.rand(len(drawn_for), dtype=torch.float64).numpy() * sizes[drawn_for]
            np.add.at(times, self.starts[drawn_for] + place.astype(np.int64), 1.0)
        return self.weighted(times)

    def weighted(self, times: np.ndarray) -> SparseGraph:
        """:meth:`graph` with each neighbour there as often as ``times`` says, in the order of ``users``."""
        sizes = np.diff(self.starts)
        rows = np.repeat(np.arange(len(sizes)), sizes)
        # the first count is the largest of a user's
        powers = times * np.exp((self.counts - self.counts[self.starts[rows]]).astype(np.float64))
        weights = powers / np.bincount(rows, weights=powers, minlength=len(sizes))[rows]
        return SparseGraph(sp.coo_array((weights, (rows, self.users)), shape=(len(sizes), len(sizes))))


def co_users(matrix: sp.csr_array, k: int, block_entries: int = 1 << 24) -> CoUsers:
    """Top k of every row of the sparse product ``R R^T`` without its diagonal, in row blocks.

    Args:
        matrix: binary interactions R, ``(n_users, n_items)``.
        k: neighbours per user.
        block_entries: upper bound, up to one user's share, on the entries of a block of the product.
    """
    transposed = matrix.T.tocsr()
    popularity = np.diff(transposed.indptr)
    # entries of each row of the product before equal ones are merged
    work = np.cumsum(matrix @ popularity.astype(np.float64))
    block_of = (work // block_entries).astype(np.int64)
    edges = np.flatnonzero(np.diff(block_of, prepend=-1))
    parts = []
    for start, stop in zip(edges, [*edges[1:], matrix.shape[0]]):
        shared = (matrix[start:stop] @ transposed).tocoo()
        rows, columns, counts = shared.coords[0] + start, shared.coords[1], shared.data
        other = rows != columns
        rows, columns, counts = rows[other], columns[other], counts[other]
        order = np.lexsort((columns, -counts, rows))
        rows, columns, counts = rows[order], columns[order], counts[order]
        kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < k
        parts.append((rows[kept], columns[kept], counts[kept]))
    rows, columns, counts = (np.concatenate(arrays) for arrays in zip(*parts))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=matrix.shape[0]))])
    return CoUsers(starts, columns, counts, k)


def weighted_sum(graphs: Sequence[SparseGraph], weights: Sequence[float]) -> SparseGraph:
    """``sum_k weights[k] * graphs[k]``."""
    return SparseGraph(sum(weight * graph.scipy() for graph, weight in zip(graphs, weights, strict=True)))


def entrywise_maximum(graphs: Sequence[SparseGraph]) -> SparseGraph:
    """The largest of the stored entries at each position; an entry that is not stored does not count (SMORE)."""
    parts = [graph.scipy().tocoo() for graph in graphs]
    rows, columns, values = (
        np.concatenate(arrays) for arrays in zip(*((*part.coords, part.data) for part in parts), strict=True)
    )
    codes = rows.astype(np.int64) * graphs[0].shape[1] + columns
    order = np.argsort(codes, kind="stable")
    codes, starts = np.unique(codes[order], return_index=True)
    values = np.maximum.reduceat(values[order], starts)
    positions = (codes // graphs[0].shape[1], codes % graphs[0].shape[1])
    return SparseGraph(sp.coo_array((values, positions), shape=graphs[0].shape))
