"""Attention over the edges of a fixed graph: products with a sparse matrix whose values are computed by a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import Csr

# numbers picked at a time: they stay in the cache of a CPU; a GPU wants few large operations
_VALUES_AT_A_TIME = defaultdict(lambda: 1 << 28, cpu=1 << 18)


class EdgePattern(nn.Module):
    """Positions of the entries of a sparse matrix, row by row and column by column, without their values.

    Its buffers are not saved with a model.

    Args:
        rows, columns: distinct positions of the E entries, ``(E,)`` each, sorted by row, then column.
        shape: shape of the matrix, ``(rows, columns)``.
    """

    row_starts: Tensor
    column_starts: Tensor
    rows: Tensor
    columns: Tensor
    order: Tensor
    row_columns: Tensor
    column_rows: Tensor

    def __init__(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        # edge numbers, sorted by column
        order = np.lexsort((rows, columns))
        for name, ends, count in (("row", rows, shape[0]), ("column", columns[order], shape[1])):
            starts = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=count))])
            self._store(f"{name}_starts", starts, np.int32)
        # gathering takes 64-bit indices, the kernels of sparse products 32-bit ones
        self._store("rows", rows, np.int64)
        self._store("columns", columns, np.int64)
        self._store("order", order, np.int64)
        self._store("row_columns", columns, np.int32)
        self._store("column_rows", rows[order], np.int32)

    def _store(self, name: str, values: np.ndarray, kind: type) -> None:
        self.register_buffer(name, torch.from_numpy(values.astype(kind)), persistent=False)

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """Inner product of the two ends of each edge: ``(rows, d)``, ``(columns, d)`` -> ``(E,)``, float32."""
        return _EdgeDots.apply(left.float(), right.float(), self)

    def ends(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Row and column of each edge, ``step`` edges at a time."""
        return zip(self.rows.split(step), self.columns.split(step))

    def softmax(self, scores: Tensor, over: str) -> Tensor:
        """Softmax of scores among the edges of each row (``over="rows"``) or column (``"columns"``), ``(E,)``."""
        segments, count = (self.rows, self.shape[0]) if over == "rows" else (self.columns, self.shape[1])
        return segment_softmax(scores.float(), segments, count)

    def propagate(self, values: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
        """The matrix with ``values`` ``(E,)`` times ``x`` ``(columns, d)``, differentiable in both: ``(rows, d)``.

        ``transposed``: the transposed matrix, ``(rows, d)`` -> ``(columns, d)``.
        """
        return _EdgeProduct.apply(values.float(), x.float(), self, transposed)

    def entries(self, values: Tensor, transposed: bool) -> Csr:
        """The matrix with ``values`` ``(E,)``, or its transpose."""
        if transposed:
            return Csr(self.column_starts, self.column_rows, values[self.order], self.shape[::-1])
        return Csr(self.row_starts, self.row_columns, values, self.shape)


def segment_softmax(scores: Tensor, segments: Tensor, count: int) -> Tensor:
    """Softmax of ``scores`` within each of ``count`` segments, ``(E,)``.

    Args:
        scores: ``(E,)``.
        segments: segment of each score, ``(E,)``, from 0.
    """
    largest = scores.new_full((count,), -torch.inf).scatter_reduce(0, segments, scores.detach(), "amax")
    powers = (scores - largest[segments]).exp()
    return powers / scores.new_zeros(count).index_add(0, segments, powers)[segments]


class _EdgeDots(torch.autograd.Function):
    """Inner products of edges; the gradients are two sparse products. The ends of all edges are never held at once."""

    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor, pattern: EdgePattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(left, right)
        return _dots(left, right, pattern)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        wanted, gradient = ctx.needs_input_grad, gradient.contiguous()
        return (
            ctx.pattern.entries(gradient, False).times(right) if wanted[0] else None,
            ctx.pattern.entries(gradient, True).times(left) if wanted[1] else None,
            None,
        )


def _dots(left: Tensor, right: Tensor, pattern: EdgePattern) -> Tensor:
    step = max(1, _VALUES_AT_A_TIME[left.device.type] // max(left.shape[1], 1))
    parts = [
        (left.index_select(0, rows) * right.index_select(0, columns)).sum(dim=1) for rows, columns in pattern.ends(step)
    ]
    return torch.cat(parts)


class _EdgeProduct(torch.autograd.Function):
    """Sparse product with a gradient for the values too, which is one inner product per edge."""

    @staticmethod
    def forward(ctx, values: Tensor, x: Tensor, pattern: EdgePattern, transposed: bool) -> Tensor:
        ctx.pattern, ctx.transposed = pattern, transposed
        ctx.save_for_backward(values, x)
        return pattern.entries(values, transposed).times(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        pattern, transposed = ctx.pattern, ctx.transposed
        values, x = ctx.saved_tensors
        gradient = gradient.contiguous()
        grad_values = grad_x = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_values = _dots(x, gradient, pattern) if transposed else _dots(gradient, x, pattern)
            if ctx.needs_input_grad[1]:
                grad_x = pattern.entries(values, not transposed).times(gradient)
        return grad_values, grad_x, None, None
