"""Losses and regularisers, as functions without state.

They compute in float32 also under ``torch.autocast``: differences of squares and exponentials lose too much in
16 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        device = next(arg for arg in args if isinstance(arg, Tensor)).device.type
        with torch.autocast(device, enabled=False):
            return function(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)

    return wrapped


@_in_float32
def bpr(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking: mean of ``-log sigmoid(u.p - u.n)`` over rows of ``(B, d)`` each.

    Source: Rendle et al., UAI 2009.
    """
    return F.softplus((users * (negatives - positives)).sum(dim=1)).mean()


@_in_float32
def info_nce(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """In-batch InfoNCE in one direction: row r of ``anchors`` should find row r of ``targets``, both ``(B, d)``.

    Rows are L2-normalised; the other rows are the negatives, repeated rows included.
    """
    logits = F.normalize(anchors, dim=1) @ F.normalize(targets, dim=1).T
    return F.cross_entropy(logits / temperature, torch.arange(len(logits), device=logits.device))


@_in_float32
def mmd_gaussian(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """Squared maximum mean discrepancy (biased V-statistic) of the rows of ``x`` and ``y``, ``(B, d)`` each.

    One Gaussian kernel ``exp(-|a - b|^2 / (2 bandwidth^2))``; every pair counts, the diagonal included. Distances come
    from Gram matrices, so memory is O(B^2), not O(B^2 d). Source: Gretton et al., JMLR 2012, eq. 5.
    """
    scale = -0.5 / bandwidth**2
    norms_x, norms_y = x.square().sum(dim=1), y.square().sum(dim=1)

    def mean_kernel(a: Tensor, b: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
        squared = torch.addmm(norms_a[:, None] + norms_b, a, b.T, alpha=-2)
        return (squared.clamp_min(0) * scale).exp().mean()

    same = mean_kernel(x, x, norms_x, norms_x) + mean_kernel(y, y, norms_y, norms_y)
    return same - 2 * mean_kernel(x, y, norms_x, norms_y)


@_in_float32
def l2_half(*embeddings: Tensor, batch_size: int) -> Tensor:
    """Half the sum of squares of all ``embeddings``, divided by ``batch_size``.

    ``batch_size`` is the configured one, also for the shorter last batch of an epoch (as the published code does).
    """
    return 0.5 * sum(x.square().sum() for x in embeddings) / batch_size
