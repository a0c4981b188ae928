"""Losses and regularisers, as functions without state.

They compute in float32 also under ``torch.autocast``: differences of squares and exponentials lose too much in
16 bits. Where several processes share a batch, the mean of what they return is the loss of the whole batch
(:mod:`~recbole_mambarec.layers.rows`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mambarec.layers.rows import all_rows, first_row, processes


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        device = next(arg for arg in args if isinstance(arg, Tensor)).device.type
        with torch.autocast(device, enabled=False):
            return function(*(arg.float() if _is_floating(arg) else arg for arg in args), **kwargs)

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
    return _in_batch(F.normalize(anchors, dim=1) / temperature, F.normalize(targets, dim=1))


def _in_batch(anchors: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the inner products of ``(B, d)`` each, with the class of row r being row r."""
    own = torch.arange(len(anchors), device=anchors.device) + first_row(anchors)
    return F.cross_entropy(anchors @ all_rows(targets).T, own)


def node_contrast(a: Tensor, b: Tensor, users: Tensor, items: Tensor, n_users: int, temperature: float) -> Tensor:
    """:func:`info_nce` from nodes ``a`` to nodes ``b``, ``(U + I, d)`` each: items among items, users among users."""
    rows = items + n_users
    return info_nce(a[rows], b[rows], temperature) + info_nce(a[users], b[users], temperature)


@_in_float32
def dot_nce(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """:func:`info_nce` with inner products instead of cosines (SLMRec)."""
    return _in_batch(anchors / temperature, targets)


@_in_float32
def info_nce_among(anchors: Tensor, candidates: Tensor, index: Tensor, temperature: float) -> Tensor:
    """InfoNCE against more candidates than the batch: anchor r should find ``candidates[index[r]]``.

    *Sum* over anchors (LGMRec), not the mean. The ``(B, n)`` logits exist in row blocks only: the gradient is computed
    along with the value.

    Args:
        anchors: ``(B, d)``.
        candidates: ``(n, d)``.
        index: ``(B,)``, each below n.
    """
    unit, targets = F.normalize(anchors, dim=1), F.normalize(candidates, dim=1)
    return _SumOfCrossEntropies.apply(unit, targets, index, 1.0 / temperature) * processes()


class _SumOfCrossEntropies(torch.autograd.Function):
    """Sum over r of the cross-entropy of ``scale * anchors[r] @ candidates.T`` with the class ``index[r]``."""

    block_values = 1 << 22

    @staticmethod
    def forward(ctx, anchors: Tensor, candidates: Tensor, index: Tensor, scale: float) -> Tensor:
        total = anchors.new_zeros(())
        gradients = torch.empty_like(anchors), torch.zeros_like(candidates)
        step = max(1, _SumOfCrossEntropies.block_values // max(len(candidates), 1))
        for start in range(0, len(anchors), step):
            rows = slice(start, start + step)
            log_share = ((anchors[rows] * scale) @ candidates.T).log_softmax(dim=1)
            own = index[rows, None]
            total -= log_share.gather(1, own).sum()
            share = log_share.exp_().scatter_add_(1, own, -torch.ones_like(own, dtype=log_share.dtype))
            gradients[0][rows] = share @ candidates * scale
            gradients[1].addmm_(share.T, anchors[rows], alpha=scale)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        anchors, candidates = ctx.saved_tensors
        return gradient * anchors, gradient * candidates, None, None


@_in_float32
def moment_gap(a: Tensor, b: Tensor) -> Tensor:
    """Difference of mean and of variance over all entries of two arrays (GUME)."""
    return (a.var() - b.var()).abs() + (a.mean() - b.mean()).abs()


@_in_float32
def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean cosine of rows of ``(B, d)`` each (BM3)."""
    return 1.0 - F.cosine_similarity(a, b, dim=1).mean()


@_in_float32
def mmd_gaussian(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """Squared maximum mean discrepancy (biased V-statistic) of the rows of ``x`` and ``y``, ``(B, d)`` each.

    One Gaussian kernel ``exp(-|a - b|^2 / (2 bandwidth^2))``; every pair counts, the diagonal included. Memory is
    O(B^2), not O(B^2 d). Source: Gretton et al., JMLR 2012, eq. 5.
    """
    scale = -0.5 / bandwidth**2
    all_x, all_y = all_rows(x), all_rows(y)
    within = _MeanKernel.apply(x, all_x, scale) + _MeanKernel.apply(y, all_y, scale)
    return within - 2 * _MeanKernel.apply(x, all_y, scale)


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
    return 0.5 * sum(x.square().sum() for x in embeddings) * processes() / batch_size


@_in_float32
def embedding_norm(*embeddings: Tensor) -> Tensor:
    """Sum of the Frobenius norms, *not* squared, divided by the rows of the last; RecBole's ``EmbLoss``.

    It is taken of the arrays as they are: rows of a batch pass :func:`~recbole_mambarec.layers.rows.all_rows` first.
    """
    return sum(x.norm() for x in embeddings) / len(embeddings[-1])
