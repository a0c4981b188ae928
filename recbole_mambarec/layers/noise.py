"""Random perturbations, drawn from torch's generator of the tensor's device.

Processes that share a batch have generators in the same state. Draws for tables are therefore the same in all of them,
and draws for rows of a batch (:func:`row_dropout`, :func:`signed_noise`) are made for the rows of all processes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mambarec.layers.rows import own_rows, processes


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape, type and device of ``like``."""
    return -torch.empty_like(like).exponential_().log()


def signed_noise(x: Tensor, scale: float = 0.1) -> Tensor:
    """``x`` ``(B, d)``, each row moved by a random vector of length ``scale`` that has the row's signs.

    Source: SimGCL (arXiv 2112.08679), as GUME uses it.
    """
    drawn = torch.rand(processes() * len(x), *x.shape[1:], dtype=x.dtype, device=x.device)
    return _moved(x, own_rows(drawn), scale)


def signed_node_noise(x: Tensor, scale: float = 0.1) -> Tensor:
    """:func:`signed_noise` of a table of nodes, ``(n, d)``."""
    return _moved(x, torch.rand(x.shape, dtype=x.dtype, device=x.device), scale)


def _moved(x: Tensor, drawn: Tensor, scale: float) -> Tensor:
    return x + scale * x.sign() * F.normalize(drawn, dim=1)


def node_noise(like: Tensor) -> Tensor:
    """Standard normal noise for a table of nodes."""
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


def random_order(count: int, device: torch.device) -> Tensor:
    """The numbers below ``count`` in a random order."""
    return torch.randperm(count, device=device)


def row_dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Dropout of the entries of batch rows, ``(B, d)`` -> the same shape."""
    if processes() == 1:
        return F.dropout(x, rate, training)
    return x * own_rows(F.dropout(x.new_ones(processes() * len(x), *x.shape[1:]), rate, training))
