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
    # dividing the (B, d) rows by the temperature spares a pass over the (B, B) products
    logits = (F.normalize(anchors, dim=1) / temperature) @ F.normalize(targets, dim=1).T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


@_in_float32
def mmd_gaussian(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """Squared maximum mean discrepancy (biased V-statistic) of the rows of ``x`` and ``y``, ``(B, d)`` each.

    One Gaussian kernel ``exp(-|a - b|^2 / (2 bandwidth^2))``; every pair counts, the diagonal included. Memory is
    O(B^2), not O(B^2 d). Source: Gretton et al., JMLR 2012, eq. 5.
    """
    scale = -0.5 / bandwidth**2
    within = _MeanKernel.apply(x, x, scale) + _MeanKernel.apply(y, y, scale)
    return within - 2 * _MeanKernel.apply(x, y, scale)


class _MeanKernel(torch.autograd.Function):
    """Mean of ``exp(scale |a_i - b_j|^2)`` over all pairs of rows.

    The kernel matrix is the only B x B array: one product of rows extended by their norms gives the exponents, and the
    gradient ``2 scale (a_i sum_j K_ij - sum_j K_ij b_j)`` needs products with it but no other pass over it. As plain
    tensor operations, autograd would keep and walk a dozen such arrays.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, scale: float) -> Tensor:
        one = a.new_ones(1)
        left = torch.cat([-2 * scale * a, scale * a.square().sum(1, keepdim=True), one.expand(len(a), 1)], dim=1)
        right = torch.cat([b, one.expand(len(b), 1), scale * b.square().sum(1, keepdim=True)], dim=1)
        kernel = (left @ right.T).exp_()
        ctx.save_for_backward(a, b, kernel)
        ctx.scale = scale
        return kernel.mean()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b, kernel = ctx.saved_tensors
        factor = gradient * (2 * ctx.scale / kernel.numel())
        of_a = of_b = None
        with torch.autocast(a.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_a = factor * (a * kernel.sum(1, keepdim=True) - kernel @ b)
            if ctx.needs_input_grad[1]:
                of_b = factor * (b * kernel.sum(0)[:, None] - kernel.T @ a)
        return of_a, of_b, None


@_in_float32
def l2_half(*embeddings: Tensor, batch_size: int) -> Tensor:
    """Half the sum of squares of all ``embeddings``, divided by ``batch_size``.

    ``batch_size`` is the configured one, also for the shorter last batch of an epoch (as the published code does).
    """
    return 0.5 * sum(x.square().sum() for x in embeddings) / batch_size
