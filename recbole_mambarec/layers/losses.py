"""Losses and regularisers, as functions without state.

They compute in float32 also under ``torch.autocast``: differences of squares and exponentials lose too much in
16 bits. Where several processes share a batch, the mean of what they return is the loss of the whole batch
(:mod:`~recbole_mambarec.layers.rows`).
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_mambarec.layers.rows import all_rows, first_row, processes
from recbole_mambarec.layers.unit import row_cosines, unit_rows

# pairs of rows compared at a time (8 MiB on a CPU), and candidates among them: a GPU wants few large products, a CPU
# multiplies few rows with very many columns slowly
_PAIRS_AT_A_TIME = defaultdict(lambda: 1 << 26, cpu=1 << 21)
_COLUMNS_AT_A_TIME = defaultdict(lambda: 1 << 26, cpu=1 << 10)
# exponentials are computed as powers of two, which take a third of the time: e^x = 2^(x log2 e)
_LOG2_E = 1.0 / math.log(2.0)
# of so few, little is left beside lists of ten, and its rounding is that of the exponentials as they are written
_FEW_CANDIDATES = 100


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
def sampled_softmax(users: Tensor, positives: Tensor, negatives: Tensor, seen: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding a user's item among sampled items, by cosines over ``temperature``, ``(B,)``.

    Args:
        users, positives: ``(B, d)`` each.
        negatives: items that all rows share, ``(n, d)``.
        seen: where a negative is an item of the user and does not count, bool ``(B, n)``.
    """
    users, positives, negatives = (unit_rows(x) for x in (users, positives, negatives))
    own = (users * positives).sum(dim=1, keepdim=True)
    others = (users @ negatives.T).masked_fill(seen, -torch.inf)
    return F.cross_entropy(
        torch.cat([own, others], dim=1) / temperature, users.new_zeros(len(users), dtype=torch.int64), reduction="none"
    )


@_in_float32
def info_nce(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """In-batch InfoNCE in one direction: row r of ``anchors`` should find row r of ``targets``, both ``(B, d)``.

    Rows are L2-normalised; the other rows are the negatives, repeated rows included.
    """
    return dot_nce(unit_rows(anchors), unit_rows(targets), temperature)


@_in_float32
def info_nce_distinct(
    anchors: Tensor, targets: Tensor, nodes: Tensor, temperature: float, counted: Tensor | None = None
) -> Tensor:
    """:func:`info_nce` in which each distinct node of the batch counts once.

    The n rows of a node that occurs n times share its weight, as anchors and as negatives. Picking one of them would
    give arrays whose size depends on values, and so make the CPU wait for the GPU.

    Args:
        anchors, targets: ``(B, d)`` each.
        nodes: node of each row, ``(B,)``.
        counted: bool ``(B,)``, which nodes take part, as anchors and as negatives; without any, the loss is zero.
    """
    unit, targets, nodes = (all_rows(x) for x in (unit_rows(anchors), unit_rows(targets), nodes))
    shares = distinct_shares(nodes)
    if counted is not None:
        # the smallest normal number: its logarithm is finite, and next to it nothing of such a row is left
        shares = torch.where(all_rows(counted), shares, torch.finfo(shares.dtype).tiny)
    own = torch.arange(len(unit), device=unit.device)
    total = _SumOfCrossEntropies.apply(unit, targets, own, 1.0 / temperature, shares)
    return total / (shares.sum() if counted is None else shares.sum().clamp_min(1.0))


@_in_float32
def dot_nce(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """:func:`info_nce` with inner products instead of cosines, ``(B, d)`` each (SLMRec)."""
    own = torch.arange(len(anchors), device=anchors.device) + first_row(anchors)
    return _SumOfCrossEntropies.apply(anchors, all_rows(targets), own, 1.0 / temperature) / len(anchors)


@_in_float32
def info_nce_among(anchors: Tensor, candidates: Tensor, index: Tensor, temperature: float) -> Tensor:
    """InfoNCE against more candidates than the batch: anchor r should find ``candidates[index[r]]``.

    The result is the *sum* over anchors, not the mean (LGMRec). The ``(B, n)`` logits exist in row blocks only, as the
    gradient is computed along with the value.

    Args:
        anchors: ``(B, d)``.
        candidates: ``(n, d)``.
        index: ``(B,)``, each below n.
    """
    unit, targets = unit_rows(anchors), unit_rows(candidates)
    return _SumOfCrossEntropies.apply(unit, targets, index, 1.0 / temperature) * processes()


@_in_float32
def node_table_nce(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """:func:`info_nce` over whole tables, ``(n, d)`` each, which every process has.

    The ``(n, n)`` logits exist in row blocks only.
    """
    unit, candidates = unit_rows(anchors), unit_rows(targets)
    own = torch.arange(len(unit), device=unit.device)
    return _SumOfCrossEntropies.apply(unit, candidates, own, 1.0 / temperature) / len(unit)


class _SumOfCrossEntropies(torch.autograd.Function):
    """Sum over r of the cross-entropy of ``scale * anchors[r] @ candidates.T`` with the class ``index[r]``.

    ``shares``, where given, weighs each anchor and the candidate of the same number. The gradient is computed along
    with the value, in row blocks that fit in a CPU's cache: the logits never exist as a whole and never leave the
    cache.
    """

    @staticmethod
    def forward(
        ctx, anchors: Tensor, candidates: Tensor, index: Tensor, scale: float, shares: Tensor | None = None
    ) -> Tensor:
        total = anchors.new_zeros(())
        gradients = torch.empty_like(anchors), torch.zeros_like(candidates)
        tiles, of_tiles = _tiles(candidates), _tiles(gradients[1])
        log_shares = None if shares is None else _tiles(shares.log2())
        for rows in _row_blocks(anchors, candidates):
            scaled, own = anchors[rows] * scale, candidates[index[rows]]
            powers = [(_LOG2_E * scaled) @ tile.T for tile in tiles]
            if log_shares is not None:
                powers = [logits.add_(share) for logits, share in zip(powers, log_shares)]
            largest = torch.stack([logits.amax(dim=1) for logits in powers]).amax(dim=0)[:, None]
            powers = [logits.sub_(largest).exp2_() for logits in powers]
            sums = cast(Tensor, sum(weights.sum(dim=1, keepdim=True) for weights in powers))
            losses = (sums.log2() + largest) / _LOG2_E - (scaled * own).sum(dim=1, keepdim=True)
            # softmax minus the anchor's own class; the division by the sums is done on (rows, d) instead of (rows, n)
            received = cast(Tensor, sum(weights @ tile for weights, tile in zip(powers, tiles)))
            grad_anchors = (received / sums - own) * scale
            if shares is not None:
                share = shares[rows, None]
                losses, grad_anchors, scaled = losses * share, grad_anchors * share, scaled * share
            total += losses.sum()
            gradients[0][rows] = grad_anchors
            for weights, of_tile in zip(powers, of_tiles):
                of_tile.addmm_(weights.T, scaled / sums)
            gradients[1].index_add_(0, index[rows], scaled, alpha=-1.0)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        anchors, candidates = ctx.saved_tensors
        return gradient * anchors, gradient * candidates, None, None, None


def sums_of_exponentials(anchors: Tensor, candidates: Tensor, scale: float) -> Tensor:
    """``sum_j exp(scale * anchors[r] . candidates[j])`` for each r, ``(B, d), (n, d) -> (B,)``, differentiable.

    Rows have length 1: no maximum is subtracted before the exponential. The ``(B, n)`` exponentials exist in row blocks
    only, computed once forward and once backward.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        return _SumsOfExponentials.apply(anchors.float(), candidates.float(), scale)


class _SumsOfExponentials(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors: Tensor, candidates: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(anchors, candidates)
        ctx.scale = scale
        sums = anchors.new_empty(len(anchors))
        for rows in _row_blocks(anchors, candidates):
            scaled = _LOG2_E * scale * anchors[rows]
            sums[rows] = cast(Tensor, sum((scaled @ tile.T).exp2_().sum(dim=1) for tile in _tiles(candidates)))
        return sums

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        anchors, candidates = ctx.saved_tensors
        of_anchors, of_candidates = torch.zeros_like(anchors), torch.zeros_like(candidates)
        # who calls backward under autocast has it here, too
        with torch.autocast(anchors.device.type, enabled=False):
            for rows in _row_blocks(anchors, candidates):
                scaled, factor = _LOG2_E * ctx.scale * anchors[rows], ctx.scale * gradient[rows, None]
                for tile, of_tile in zip(_tiles(candidates), _tiles(of_candidates)):
                    weights = (scaled @ tile.T).exp2_()
                    of_anchors[rows] += weights @ tile
                    of_tile.addmm_(weights.T, factor * anchors[rows])
                of_anchors[rows] *= factor
        return of_anchors, of_candidates, None


def sums_and_listed_sums(
    anchors: Tensor, candidates: Tensor, lists: Sequence[Tensor], temperature: float
) -> list[Tensor]:
    """``sum_j exp(anchors[r] . candidates[j] / temperature)`` over all candidates and over those on a list, ``(B,)``.

    All sums are of the same exponentials, so that little is lost where a list has nearly all of the sum and is
    subtracted from it. The ``(B, n)`` exponentials exist in row blocks only, computed once forward and once backward.

    Args:
        anchors, candidates: ``(B, d)`` and ``(n, d)``, rows of length 1.
        lists: distinct candidates of each anchor, ``(B, k)`` each.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        return list(_SumsAndListedSums.apply(anchors.float(), candidates.float(), temperature, *lists))


class _SumsAndListedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors: Tensor, candidates: Tensor, temperature: float, *lists: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(anchors, candidates, *lists)
        ctx.temperature = temperature
        sums = anchors.new_empty(1 + len(lists), len(anchors))
        for rows in _row_blocks(anchors, candidates):
            powers = _exponentials(anchors[rows], candidates, temperature)
            sums[0, rows] = powers.sum(dim=1)
            for total, chosen in zip(sums[1:], lists):
                total[rows] = powers.gather(1, chosen[rows]).sum(dim=1)
        return tuple(sums.unbind())

    @staticmethod
    def backward(ctx, gradient: Tensor, *of_lists: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates, *lists = ctx.saved_tensors
        of_anchors, of_candidates = torch.empty_like(anchors), torch.zeros_like(candidates)
        with torch.autocast(anchors.device.type, enabled=False):
            for rows in _row_blocks(anchors, candidates):
                weights = _exponentials(anchors[rows], candidates, ctx.temperature)
                listed = [weights.gather(1, chosen[rows]) for chosen in lists]
                weights *= gradient[rows, None]
                for own, chosen, of_list in zip(listed, lists, of_lists):
                    weights.scatter_add_(1, chosen[rows], own.mul_(of_list[rows, None]))
                of_anchors[rows] = (weights @ candidates) / ctx.temperature
                of_candidates.addmm_(weights.T, anchors[rows] / ctx.temperature)
        return of_anchors, of_candidates, None, *(None for _ in lists)


def _exponentials(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """``exp(anchors[r] . candidates[j] / temperature)``, ``(rows, n)``."""
    if len(candidates) <= _FEW_CANDIDATES:
        return (anchors @ candidates.T).div_(temperature).exp_()
    scaled, powers = _LOG2_E / temperature * anchors, anchors.new_empty(len(anchors), len(candidates))
    for tile, own in zip(_tiles(candidates), _tiles(powers.T)):
        torch.mm(scaled, tile.T, out=own.T)
    return powers.exp2_()


@_in_float32
def info_nce_both(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """In-batch InfoNCE in one direction, ``(B, d)`` each, with the other anchors as negatives, too (MMSSL)."""
    unit, other = unit_rows(anchors), unit_rows(targets)
    scale = 1.0 / temperature
    itself, own = (torch.exp(scale * (unit * x).sum(dim=1)) for x in (unit, other))
    sums = sum(sums_of_exponentials(unit, all_rows(x), scale) for x in (unit, other)) - itself
    return -torch.log(own / sums + 1e-8).mean()


def listed_similarities(anchors: Tensor, table: Tensor, lists: Tensor) -> Tensor:
    """Inner products of each anchor with the rows of ``table`` on its list, ``(B, d), (n, d), (B, k) -> (B, k)``.

    The picked rows, ``(B, k, d)``, exist in blocks only; beyond one block they are picked again in the backward pass.
    """
    step = max(1, _PAIRS_AT_A_TIME[anchors.device.type] // max(lists.shape[1] * anchors.shape[1], 1))
    if len(anchors) <= step:
        return _listed(anchors, table, lists)
    blocks = zip(anchors.split(step), lists.split(step))
    return torch.cat([checkpoint(_listed, block, table, chosen, use_reentrant=False) for block, chosen in blocks])


def _listed(anchors: Tensor, table: Tensor, lists: Tensor) -> Tensor:
    return torch.einsum("bd,bkd->bk", anchors, table[lists])


def _row_blocks(anchors: Tensor, candidates: Tensor) -> Iterator[slice]:
    step = max(1, _PAIRS_AT_A_TIME[anchors.device.type] // max(len(candidates), 1))
    return (slice(start, start + step) for start in range(0, len(anchors), step))


def _tiles(candidates: Tensor) -> tuple[Tensor, ...]:
    return candidates.split(_COLUMNS_AT_A_TIME[candidates.device.type])


def distinct_shares(nodes: Tensor) -> Tensor:
    """One over how often each of ``nodes`` occurs, ``(B,)``: a sum weighted with it counts every node once."""
    ordered = nodes.sort().values
    return 1.0 / (torch.searchsorted(ordered, nodes, right=True) - torch.searchsorted(ordered, nodes))


def mean_over_distinct(values: Tensor, nodes: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean of ``values`` ``(B,)`` in which each of ``nodes`` counts once, however many rows of the batch it has.

    Args:
        counted: bool ``(B,)``, which nodes take part; without any, the mean is zero.
    """
    shares = distinct_shares(all_rows(nodes))
    if counted is not None:
        shares = shares * all_rows(counted)
    first = first_row(nodes)
    total = (shares[first : first + len(nodes)] * values).sum() * processes()
    return total / (shares.sum() if counted is None else shares.sum().clamp_min(1.0))


@_in_float32
def bernoulli_divergence(users: Tensor, a: Tensor, b: Tensor, user_nodes: Tensor, item_nodes: Tensor) -> Tensor:
    """Mean symmetric divergence of the Bernoulli distributions with logits ``u . a_j`` and ``u . b_j`` (DAMRS).

    Over all pairs of a distinct user and a distinct item; a node that stands there n times counts once. The pairs exist
    in row blocks only, and the gradient is computed along with the value.

    Args:
        users: ``(B, d)``.
        a, b: ``(C, d)`` each.
        user_nodes, item_nodes: who they are, ``(B,)`` and ``(C,)``.
    """
    a, b, item_nodes = all_rows(a), all_rows(b), all_rows(item_nodes)
    of_all_users, of_items = distinct_shares(all_rows(user_nodes)), distinct_shares(item_nodes)
    of_users = of_all_users[first_row(users) : first_row(users) + len(users)]
    total = _SumOfDivergences.apply(users, a, b, of_users, of_items)
    return total * processes() / (of_all_users.sum() * of_items.sum())


class _SumOfDivergences(torch.autograd.Function):
    """Sum over pairs of ``w_r v_j (sigmoid(x) - sigmoid(y)) (x - y)`` with ``x = u_r . a_j`` and ``y = u_r . b_j``."""

    @staticmethod
    def forward(ctx, users: Tensor, a: Tensor, b: Tensor, of_users: Tensor, of_items: Tensor) -> Tensor:
        gradients = torch.empty_like(users), torch.zeros_like(a), torch.zeros_like(b)
        total = users.new_zeros(())
        for rows in _row_blocks(users, a):
            x, y = users[rows] @ a.T, users[rows] @ b.T
            p, q = x.sigmoid(), y.sigmoid()
            weights = of_users[rows, None] * of_items
            total += (weights * (p - q) * (x - y)).sum()
            of_x = weights * (p * (1 - p) * (x - y) + (p - q))
            of_y = -weights * (q * (1 - q) * (x - y) + (p - q))
            gradients[0][rows] = of_x @ a + of_y @ b
            gradients[1].addmm_(of_x.T, users[rows])
            gradients[2].addmm_(of_y.T, users[rows])
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * saved for saved in ctx.saved_tensors), None, None


@_in_float32
def moment_gap(a: Tensor, b: Tensor) -> Tensor:
    """Absolute difference of the means plus that of the variances, over all entries of two arrays (GUME)."""
    return (a.var() - b.var()).abs() + (a.mean() - b.mean()).abs()


@_in_float32
def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Mean square of the products of all pairs of coordinates, ``(B, d)`` each (REARM).

    Rows are centred over the batch and divided by their lengths, through which no gradient passes.
    """
    a, b = (x - x.mean(dim=0) for x in (all_rows(a), all_rows(b)))
    a, b = (x / (x.detach().norm(dim=1, keepdim=True) + 1e-6) for x in (a, b))
    return (a.T @ b).square().mean()


@_in_float32
def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine of rows of ``(B, d)`` each (SELFCFED_LGN)."""
    return row_cosines(a, b).mean()


@_in_float32
def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus :func:`mean_cosine` (BM3)."""
    return 1.0 - mean_cosine(a, b)


@_in_float32
def mmd_gaussian(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """Squared maximum mean discrepancy (biased V-statistic) of the rows of ``x`` and ``y``, ``(B, d)`` each.

    One Gaussian kernel ``exp(-|a - b|^2 / (2 bandwidth^2))``; every pair counts, the diagonal included. Memory is
    O(B d). Source: Gretton et al., JMLR 2012, eq. 5.
    """
    scale = -0.5 / bandwidth**2
    if processes() == 1:
        within = _MeanKernel.apply(x, None, scale) + _MeanKernel.apply(y, None, scale)
        return within - 2 * _MeanKernel.apply(x, y, scale)
    all_x, all_y = all_rows(x), all_rows(y)
    within = _MeanKernel.apply(x, all_x, scale) + _MeanKernel.apply(y, all_y, scale)
    return within - 2 * _MeanKernel.apply(x, all_y, scale)


class _MeanKernel(torch.autograd.Function):
    """Mean of ``exp(scale |a_i - b_j|^2)`` over all pairs of rows, ``(n, d)`` and ``(m, d)``; ``b`` None: over a's own.

    One product of rows extended by their norms gives the exponents. The gradient ``2 scale (a_i sum_j K_ij - sum_j K_ij
    b_j)`` is computed along with the value, in row blocks that fit in a CPU's cache, so that the kernel matrix never
    exists as a whole. Within one set of rows the matrix is symmetric, and only its blocks from the diagonal on are
    computed.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor | None, scale: float) -> Tensor:
        symmetric = b is None
        b = a if symmetric else b
        one = a.new_ones(1)
        binary = _LOG2_E * scale
        left = torch.cat([-2 * binary * a, binary * a.square().sum(1, keepdim=True), one.expand(len(a), 1)], dim=1)
        right = torch.cat([b, one.expand(len(b), 1), binary * b.square().sum(1, keepdim=True)], dim=1)
        total = a.new_zeros(())
        grad_a, grad_b = torch.empty_like(a), torch.zeros_like(b)
        step = max(1, _PAIRS_AT_A_TIME[a.device.type] // max(len(b), 1))
        for start in range(0, len(a), step):
            rows = slice(start, start + step)
            columns = slice(start if symmetric else 0, None)
            kernel = (left[rows] @ right[columns].T).exp2_()
            row_sums = kernel.sum(dim=1, keepdim=True)
            grad_a[rows] = a[rows] * row_sums - kernel @ b[columns]
            total += row_sums.sum()
            if symmetric:
                # what lies past the diagonal block counts for its mirror image too
                columns, kernel = slice(start + step, None), kernel[:, len(kernel) :]
                total += kernel.sum()
            grad_b[columns] += b[columns] * kernel.sum(0)[:, None] - kernel.T @ a[rows]
        factor = 2 * scale / (len(a) * len(b))
        if symmetric:
            grad_a, grad_b = 2 * (grad_a + grad_b), None
        ctx.save_for_backward(factor * grad_a, None if grad_b is None else factor * grad_b)
        return total / (len(a) * len(b))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        grad_a, grad_b = ctx.saved_tensors
        return gradient * grad_a, None if grad_b is None else gradient * grad_b, None


@_in_float32
def l2_half(*embeddings: Tensor, batch_size: int) -> Tensor:
    """Half the sum of squares of all ``embeddings``, divided by ``batch_size``.

    ``batch_size`` is the configured one, also for the shorter last batch of an epoch (as the published code does).
    """
    squares = cast(Tensor, sum(x.square().sum() for x in embeddings))
    return 0.5 * squares * processes() / batch_size


@_in_float32
def embedding_norm(*embeddings: Tensor) -> Tensor:
    """Sum of the Frobenius norms, *not* squared, divided by the number of rows of the last; RecBole's ``EmbLoss``.

    The arrays are taken as they are: rows of a batch have to pass :func:`~recbole_mambarec.layers.rows.all_rows` first.
    """
    return sum(x.norm() for x in embeddings) / len(embeddings[-1])
