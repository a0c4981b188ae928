"""Random perturbations, drawn from torch's generator of the tensor's device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape of ``like``."""
    return -torch.empty_like(like).exponential_().log()


def signed_noise(x: Tensor, scale: float = 0.1) -> Tensor:
    """``x`` moved by a random vector of length ``scale`` per row that points away from zero in every coordinate.

    Source: SimGCL (arXiv 2112.08679), as GUME uses it.
    """
    return x + scale * x.sign() * F.normalize(torch.rand_like(x), dim=1)
