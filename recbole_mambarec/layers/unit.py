"""Rows of length 1 and cosines of rows, with gradients of a few passes over the memory.

The values are those of ``F.normalize`` and ``F.cosine_similarity``. Autograd takes them apart into a dozen operations
each, whose gradients took ten times as long as the values.
"""

from __future__ import annotations

import torch
from torch import Tensor

# lengths below it count as it, in the two functions of torch
_LEAST_LENGTH, _LEAST_COSINE_LENGTH = 1e-12, 1e-8


def unit_rows(x: Tensor) -> Tensor:
    """Rows of ``x``, ``(n, d)``, divided by their lengths, in float32; rows of zeros stay as they are."""
    return _UnitRows.apply(x.float())


def row_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of row r of ``a`` and row r of ``b``, ``(n, d)`` each, in float32: ``(n, 1)``."""
    return _RowCosines.apply(a.float(), b.float())


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        lengths = x.norm(dim=1, keepdim=True)
        ctx.short = lengths < _LEAST_LENGTH
        lengths = lengths.clamp_min_(_LEAST_LENGTH)
        unit = x / lengths
        ctx.save_for_backward(unit, lengths)
        return unit

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        unit, lengths = ctx.saved_tensors
        # what points along a row does not turn it
        along = (gradient * unit).sum(dim=1, keepdim=True).masked_fill_(ctx.short, 0.0)
        return torch.addcmul(gradient, unit, along, value=-1.0).div_(lengths)


class _RowCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        of_a, of_b = (x.norm(dim=1, keepdim=True).clamp_min_(_LEAST_COSINE_LENGTH) for x in (a, b))
        cosines = (a * b).sum(dim=1, keepdim=True) / (of_a * of_b)
        ctx.save_for_backward(a, b, of_a, of_b, cosines)
        return cosines

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, of_a, of_b, cosines = ctx.saved_tensors
        across, along = gradient / (of_a * of_b), gradient * cosines

        def of(x: Tensor, other: Tensor, lengths: Tensor) -> Tensor:
            share = (along / lengths.square()).masked_fill_(lengths <= _LEAST_COSINE_LENGTH, 0.0)
            return torch.addcmul(across * other, share, x, value=-1.0)

        return (
            of(a, b, of_a) if ctx.needs_input_grad[0] else None,
            of(b, a, of_b) if ctx.needs_input_grad[1] else None,
        )
