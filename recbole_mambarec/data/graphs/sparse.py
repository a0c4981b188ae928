"""A fixed sparse matrix that models multiply with embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# torch repeats these once per process, in the middle of the training log; neither asks for anything to be done
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")


class Csr(NamedTuple):
    """Entries of a sparse matrix, row by row.

    Attributes:
        rows: where each row begins among the entries, and their number, ``(rows + 1,)``.
        columns, values: ``(E,)`` each; indices are of the type of ``rows``.
        shape: ``(rows, columns)``.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, ...]

    def tensor(self) -> Tensor:
        """As a ``torch.sparse_csr`` tensor that shares the arrays."""
        return torch.sparse_csr_tensor(*self[:3], size=self.shape, check_invariants=False)

    def times(self, x: Tensor) -> Tensor:
        """The product with ``x``, float32 ``(columns, d)`` -> ``(rows, d)``, without gradient."""
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type != "cpu":
                return self.tensor() @ x
            # sums of weighted rows, which torch computes two to three times faster than MKL its sparse products
            x = x.detach().contiguous()
            return F.embedding_bag(
                self.columns, x, self.rows, mode="sum", per_sample_weights=self.values, include_last_offset=True
            )


class SparseGraph(nn.Module):
    """A fixed sparse matrix, stored together with its transpose.

    Its arrays are buffers that are not saved with a model: they follow ``model.to(device)`` and are rebuilt from the
    data when a checkpoint is loaded.

    Args:
        matrix: scipy sparse matrix, shape ``(rows, columns)``; a row is the node that receives.
        symmetric: the matrix equals its transpose, which is then not stored.
    """

    forward_rows: Tensor
    forward_columns: Tensor
    forward_values: Tensor
    backward_rows: Tensor
    backward_columns: Tensor
    backward_values: Tensor

    def __init__(self, matrix: sp.sparray | sp.spmatrix, symmetric: bool = False) -> None:
        super().__init__()
        self.shape = tuple(matrix.shape)
        self.symmetric = symmetric
        self._store("forward", sp.csr_array(matrix))
        if not symmetric:
            self._store("backward", sp.csr_array(matrix.T))

    def _store(self, side: str, matrix: sp.csr_array) -> None:
        matrix.sort_indices()
        # cuSPARSE takes 32-bit indices as they are and converts 64-bit ones on every product
        index = np.int32 if matrix.nnz < 2**31 - 1 else np.int64
        self.register_buffer(f"{side}_rows", torch.from_numpy(matrix.indptr.astype(index)), persistent=False)
        self.register_buffer(f"{side}_columns", torch.from_numpy(matrix.indices.astype(index)), persistent=False)
        self.register_buffer(f"{side}_values", torch.from_numpy(matrix.data.astype(np.float32)), persistent=False)

    @property
    def n_edges(self) -> int:
        """Number of stored entries."""
        return len(self.forward_values)

    def entries(self, transposed: bool = False) -> Csr:
        """Entries of the matrix, or of its transpose; they share the buffers."""
        shape = self.shape[::-1] if transposed else self.shape
        if transposed and not self.symmetric:
            return Csr(self.backward_rows, self.backward_columns, self.backward_values, shape)
        return Csr(self.forward_rows, self.forward_columns, self.forward_values, shape)

    def csr(self, transposed: bool = False) -> Tensor:
        """The matrix (or its transpose) as a ``torch.sparse_csr`` tensor that shares the buffers."""
        return self.entries(transposed).tensor()

    def propagate(self, x: Tensor) -> Tensor:
        """Matrix times ``x``: ``(columns, d)`` -> ``(rows, d)`` float32, differentiable in ``x``."""
        return Propagate.apply(x.float(), self)

    def forward(self, x: Tensor) -> Tensor:
        """Same as :meth:`propagate`."""
        return self.propagate(x)

    def replace(self, other: SparseGraph) -> None:
        """Take over the entries of ``other``, so that a module keeps its place in a model while its edges change.

        Raises:
            ValueError: the shapes differ, or only one of the two stores its transpose.
        """
        if (self.shape, self.symmetric) != (other.shape, other.symmetric):
            raise ValueError(f"a graph of shape {self.shape} cannot become one of shape {other.shape}")
        for name, values in other.named_buffers():
            setattr(self, name, values)

    def scipy(self) -> sp.csr_array:
        """A copy as a scipy CSR array, float32."""
        parts = (self.forward_values, self.forward_columns, self.forward_rows)
        return sp.csr_array(tuple(part.cpu().numpy() for part in parts), shape=self.shape)

    def extra_repr(self) -> str:
        """Shape and edge count for ``print(model)``."""
        return f"{self.shape[0]} x {self.shape[1]}, {self.n_edges} edges"


class Propagate(torch.autograd.Function):
    """Sparse product whose backward pass multiplies with the stored transpose instead of transposing each time."""

    @staticmethod
    def forward(ctx, x: Tensor, graph: SparseGraph) -> Tensor:
        ctx.graph = graph
        return graph.entries().times(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.graph.entries(transposed=True).times(gradient.contiguous()), None


def weighted_sum(graphs: Sequence[SparseGraph], weights: Sequence[float]) -> SparseGraph:
    """``sum_k weights[k] * graphs[k]``; all graphs have the same shape."""
    return SparseGraph(sum(weight * graph.scipy() for graph, weight in zip(graphs, weights, strict=True)))


def product_blocks(left: sp.csr_array, right: sp.csr_array, block_entries: int) -> Iterator[tuple[int, sp.coo_array]]:
    """``left @ right`` in blocks of rows: the number of the first row of each, and the block.

    Args:
        block_entries: upper bound, up to one row's share, on the entries of a block before equal ones are merged.
    """
    work = np.cumsum(left @ np.diff(right.indptr).astype(np.float64))
    edges = np.flatnonzero(np.diff((work // block_entries).astype(np.int64), prepend=-1))
    for start, stop in zip(edges, [*edges[1:], left.shape[0]]):
        yield int(start), (left[start:stop] @ right).tocoo()


def largest_entries(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest entries of each row of a matrix: row by row, largest first, ties by column."""
    order = np.lexsort((columns, -values, rows))
    ordered = rows[order]
    return order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < k]


def inverse_sqrt(degrees: np.ndarray) -> np.ndarray:
    """``1 / sqrt(d)`` of each degree ``(n,)``, and 0 where the degree is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(degrees > 0, 1.0 / np.sqrt(degrees), 0.0)
