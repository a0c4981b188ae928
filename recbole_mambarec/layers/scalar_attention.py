"""Attention among the coordinates of a vector, one number each (REARM)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

# attention weights computed at a time: they stay in the cache of a CPU; a GPU wants few large operations
_WEIGHTS_AT_A_TIME = defaultdict(lambda: 1 << 24, cpu=1 << 18)
# dropout compares 16 random bits with a threshold; a word of 64 bits serves four weights
_RANDOM_VALUES, _LANES, _BITS = 1 << 16, 4, 16
# the lowest bit of each lane of a word
_LOWEST_BITS = sum(1 << _BITS * lane for lane in range(_LANES))
# floats per weight of a block: its power, whether it is kept, and random bits
_FLOATS_PER_WEIGHT = 2.5


def weights_held(rows: int, width: int, device: torch.device) -> float:
    """Floats of the block of weights that the attention of ``rows`` rows of ``width`` coordinates holds."""
    return _FLOATS_PER_WEIGHT * min(rows * width**2, _WEIGHTS_AT_A_TIME[device.type])


class ScalarAttention(nn.Module):
    """Single-head attention of embedding width 1 whose sequence is the d coordinates of a row.

    With scalars w, b for query, key and value and for the output::

        a_ij = softmax_j( (w_q q_i + b_q) (w_k c_j + b_k) ),    out_i = w_o sum_j a_ij (w_v c_j + b_v) + b_o

    Memory is linear in the rows: weights ``(n, d, d)`` exist in blocks of rows only, and are computed again in the
    backward pass, for which one bit of each is kept: whether it was dropped.

    Args:
        dropout: rate at which attention weights are dropped in training, from 0 to 1, in steps of 1/65 536. (A random
            number of its own per weight, as torch's dropout takes, would be most of the time of a training step on a
            CPU.) With 1, ``out_i`` is ``b_o`` in training, as in the settings that REARM's authors give for Sports.

    Raises:
        ValueError: a rate outside this range.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout of attention weights must be from 0 to 1, got {dropout}")
        self.dropout = dropout
        self.in_weight, self.in_bias = nn.Parameter(torch.empty(3)), nn.Parameter(torch.zeros(3))
        self.out_weight, self.out_bias = nn.Parameter(torch.empty(())), nn.Parameter(torch.zeros(()))
        nn.init.xavier_uniform_(self.in_weight.data.view(3, 1))
        nn.init.kaiming_uniform_(self.out_weight.data.view(1, 1), a=5**0.5)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Query and context of the same rows, ``(n, d)`` each -> ``(n, d)``, in the precision of the parameters."""
        query, context = query.to(self.in_weight.dtype), context.to(self.in_weight.dtype)
        q, k, v = (w * x + b for w, b, x in zip(self.in_weight, self.in_bias, (query, context, context)))
        if self.training and self.dropout == 1:
            # gradients of 0, which AdamW takes as an occasion for its decay, as with torch's dropout
            return self.out_weight * (q * 0.0) + self.out_bias
        draws = Draws(self.dropout, (*q.shape, k.shape[1])) if self.training and self.dropout else None
        return self.out_weight * _Attend.apply(q, k, v, draws) + self.out_bias


class Draws:
    """Which attention weights are kept: drawn when a block is first asked for, and held as one bit per weight.

    Args:
        rate: share of the weights that are dropped.
        shape: of all weights, ``(n, d, d)``.
    """

    def __init__(self, rate: float, shape: Sequence[int]) -> None:
        self.rate, self.shape = rate, torch.Size(shape)
        # at or below which one of 65 536 equally likely numbers drops a weight
        self._last = min(max(round(rate * _RANDOM_VALUES), 1), _RANDOM_VALUES - 1) - _RANDOM_VALUES // 2 - 1
        self._blocks: dict[int, Tensor] = {}

    def block(self, rows: slice, like: Tensor) -> Tensor:
        """1 where a weight of these rows is kept and 0 elsewhere, in the shape of ``like``."""
        shifts = torch.arange(_BITS, device=like.device)[:, None]
        if rows.start in self._blocks:
            words = (self._blocks[rows.start] >> shifts).bitwise_and_(_LOWEST_BITS)
        else:
            words = torch.empty(_BITS, -(-like.numel() // (_BITS * _LANES)), dtype=torch.int64, device=like.device)
            words.random_(torch.iinfo(torch.int64).min, None)
            # 1 beyond the threshold, 0 up to it: on a CPU three times as fast as a comparison
            words.view(torch.int16).clamp_(self._last, self._last + 1).sub_(self._last)
            self._blocks[rows.start] = (words << shifts).sum(dim=0)
        return words.view(torch.int16).flatten()[: like.numel()].view_as(like)


class _Attend(torch.autograd.Function):
    """``sum_j softmax_j(q_i k_j) v_j`` of each row, some of whose weights are dropped.

    With E = exp(q_i k_j - max_j) and P = E where a weight is kept and 0 elsewhere, all that the result and the
    gradients need are sums over a row or a column of E and P.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, draws: Draws | None) -> Tensor:
        of_kept, of_all = (q.new_empty(len(q), 2, q.shape[1]) for _ in range(2))
        with torch.autocast(q.device.type, enabled=False):
            for rows, powers, kept in _blocks(q, k, draws):
                torch.bmm(torch.stack([v[rows], v[rows] * k[rows]], dim=1), kept.mT, out=of_kept[rows])
                torch.bmm(torch.stack([torch.ones_like(k[rows]), k[rows]], dim=1), powers.mT, out=of_all[rows])
        (values, values_by_key), (total, keys) = of_kept.unbind(1), of_all.unbind(1)
        kept_total = total * (1 - draws.rate) if draws else total
        attended = values / kept_total
        # d attended_i / d q_i: keys weighted by what each adds, less their mean
        slope = values_by_key / kept_total - attended * keys / total
        ctx.draws = draws
        ctx.save_for_backward(q, k, v, kept_total, attended / total, slope)
        return attended

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, kept_total, mean, slope = ctx.saved_tensors
        of_kept, of_all = gradient / kept_total, gradient * mean * q
        grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        with torch.autocast(q.device.type, enabled=False):
            for rows, powers, kept in _blocks(q, k, ctx.draws):
                sums = torch.bmm(torch.stack([of_kept[rows], of_kept[rows] * q[rows]], dim=1), kept)
                grad_v[rows] = sums[:, 0]
                grad_k[rows] = sums[:, 1] * v[rows] - torch.bmm(of_all[rows, None], powers).squeeze(1)
        return gradient * slope, grad_k, grad_v, None


def _blocks(q: Tensor, k: Tensor, draws: Draws | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows, their powers ``exp(q_i k_j - max_j)``, and these where they are kept; the next block overwrites both."""
    # the largest product of a row is with the largest or the smallest key
    largest = torch.where(q > 0, k.amax(dim=1, keepdim=True), k.amin(dim=1, keepdim=True)) * q
    queries, keys = torch.stack([q, -largest], dim=2), torch.stack([k, torch.ones_like(k)], dim=1)
    step = min(len(q), max(1, _WEIGHTS_AT_A_TIME[q.device.type] // (q.shape[1] * k.shape[1])))
    powers = q.new_empty(step, q.shape[1], k.shape[1])
    kept = torch.empty_like(powers) if draws else powers
    for start in range(0, len(q), max(step, 1)):
        rows = slice(start, min(start + step, len(q)))
        own, own_kept = powers[: rows.stop - start], kept[: rows.stop - start]
        torch.bmm(queries[rows], keys[rows], out=own).exp_()
        if draws:
            own_kept.copy_(draws.block(rows, own)).mul_(own)
        yield rows, own, own_kept
