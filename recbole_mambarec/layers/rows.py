"""Batches whose rows are spread over the processes of torch.distributed.

Each of W processes computes a loss on its own B rows, and all apply the mean of their gradients. A loss is therefore
right if the mean over processes of what it returns is the loss of all W * B rows: for a mean over rows that holds as it
is, a sum needs the factor :func:`processes`, and what compares rows with each other must see :func:`all_rows`. Without
torch.distributed the functions return their input.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_row(x: Tensor) -> int:
    """Position of this process's first row among the rows of all processes, which have ``len(x)`` each."""
    return len(x) * dist.get_rank() if processes() > 1 else 0


def all_rows(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, ``(B, ...)`` -> ``(W * B, ...)``, differentiable."""
    return _Gather.apply(x) if processes() > 1 else x


def own_rows(x: Tensor) -> Tensor:
    """This process's rows of a tensor that is the same in all processes, ``(W * B, ...)`` -> ``(B, ...)``."""
    return x.chunk(processes())[dist.get_rank()] if processes() > 1 else x


def own_part(x: Tensor) -> Tensor:
    """Like :func:`own_rows`, of any number of rows: the parts of processes may differ by one row."""
    return x.tensor_split(processes())[dist.get_rank()] if processes() > 1 else x


def joined_parts(parts: list[Tensor]) -> list[Tensor]:
    """What was split by :func:`own_part`, put together again; without gradient."""
    if processes() == 1:
        return parts
    of_all: list = [None] * processes()
    dist.all_gather_object(of_all, [part.cpu() for part in parts])
    return [torch.cat(found).to(part.device) for part, found in zip(parts, zip(*of_all))]


class _Gather(torch.autograd.Function):
    """Concatenation over processes; in the backward pass each gets the sum of all gradients of its rows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(processes())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return own_rows(total)
