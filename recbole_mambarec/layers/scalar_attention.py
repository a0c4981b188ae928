"""Attention among the coordinates of a vector, one number each (REARM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# attention weights held at a time (64 MiB); blocks beyond the first are computed again in the backward pass
_BLOCK_VALUES = 1 << 24


class ScalarAttention(nn.Module):
    """Single-head attention of embedding width 1 whose sequence is the d coordinates of a row.

    With scalars w, b for query, key and value and for the output::

        a_ij = softmax_j( (w_q q_i + b_q) (w_k c_j + b_k) ),    out_i = w_o sum_j a_ij (w_v c_j + b_v) + b_o

    Memory is linear in the rows: weights ``(n, d, d)`` exist in blocks of rows only.

    Args:
        dropout: rate at which attention weights are dropped in training.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.in_weight, self.in_bias = nn.Parameter(torch.empty(3)), nn.Parameter(torch.zeros(3))
        self.out_weight, self.out_bias = nn.Parameter(torch.empty(())), nn.Parameter(torch.zeros(()))
        nn.init.xavier_uniform_(self.in_weight.data.view(3, 1))
        nn.init.kaiming_uniform_(self.out_weight.data.view(1, 1), a=5**0.5)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Query and context of the same rows, ``(n, d)`` each -> ``(n, d)``."""
        step = max(1, _BLOCK_VALUES // (query.shape[1] * context.shape[1]))
        if len(query) <= step:
            return self._attend(query, context)
        blocks = zip(query.split(step), context.split(step))
        return torch.cat([checkpoint(self._attend, q, c, use_reentrant=False) for q, c in blocks])

    def _attend(self, query: Tensor, context: Tensor) -> Tensor:
        q, k, v = (w * x + b for w, b, x in zip(self.in_weight, self.in_bias, (query, context, context)))
        weights = (q[:, :, None] * k[:, None, :]).softmax(dim=2)
        weights = F.dropout(weights, self.dropout, self.training)
        return self.out_weight * (weights @ v[:, :, None]).squeeze(2) + self.out_bias
