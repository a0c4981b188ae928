"""Self-attention in which every item attends to all items."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError

# widths of a head that all fused kernels take
_STEP = 8
# rows up to which the weights may be held: without a fused kernel, gradients have a third of its rounding errors
_ROWS_HELD = 100


class CatalogueAttention(nn.Module):
    """Multi-head self-attention over the rows of a table, ``(n, d) -> (n, d)``.

    Each head computes ``softmax(q k^T / sqrt(d / heads)) v`` over all n rows. For more than 100, a fused kernel takes
    the rows in blocks, forward and backward, so that the n x n weights are never held: memory is linear in n,
    arithmetic is not.

    Args:
        dim: width d of the rows.
        heads: number of heads, a divisor of d.

    Raises:
        UserError: ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"embedding_size must be a multiple of the {heads} heads of the attention, got {dim}")
        self.heads, self.width = heads, dim // heads
        self.entry, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.entry.weight)
        nn.init.zeros_(self.entry.bias)
        nn.init.zeros_(self.output.bias)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the heads, ``(1, heads, n, d / heads)`` each."""
        shape = (1, len(x), self.heads, self.width)
        return tuple(part.reshape(shape).transpose(1, 2) for part in self.entry(x).chunk(3, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, d) -> (n, d)``."""
        query, key, value = self.parts(x)
        if len(x) <= _ROWS_HELD:
            weights = (query @ key.mT * self.width**-0.5).softmax(dim=-1)
            return self.output((weights @ value).transpose(1, 2).reshape(x.shape))
        # zeros behind the columns of a head change no product; without them some widths fall back to n x n weights
        padding = -self.width % _STEP
        query, key, value = (F.pad(part, (0, padding)).contiguous() for part in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value, scale=self.width**-0.5)
        return self.output(found[..., : self.width].transpose(1, 2).reshape(x.shape))
