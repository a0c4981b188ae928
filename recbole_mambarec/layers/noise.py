"""Random perturbations, drawn from torch's generator of the tensor's device.

Where several processes share a batch, their generators are in the same state: what is drawn for tables is the same in
all of them, what is drawn for rows of the batch (:func:`row_dropout`, :func:`signed_noise`) is drawn for all rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mambarec.layers.rows import own_rows, processes


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape of ``like``."""
    return -torch.empty_like(like).exponential_().log()


def signed_noise(x: Tensor, scale: float = 0.1) -> Tensor:
    """``x`` moved by a random vector of length ``scale`` per row that points away from zero in every coordinate.

    Source: SimGCL (arXiv 2112.08679), as GUME uses it.
    """
    drawn = torch.rand(processes() * len(x), *x.shape[1:], dtype=x.dtype, device=x.device)
    return x + scale * x.sign() * F.normalize(own_rows(drawn), dim=1)


def row_dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Dropout of rows of a batch, ``(B, d)``."""
    if processes() == 1:
        return F.dropout(x, rate, training)
    return x * own_rows(F.dropout(x.new_ones(processes() * len(x), *x.shape[1:]), rate, training))
