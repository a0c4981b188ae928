"""From raw feature width to embedding width."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn


class DimensionProjection(nn.Module):
    """Linear map ``in_dim -> out_dim``, or two of them through a narrower ``width`` without an activation between them.

    Source: MambaRec (arXiv 2509.09114), dimension projection; ``width`` is D // r there.

    Args:
        in_dim: feature width D.
        out_dim: embedding width d.
        width: width between the two maps; None for a single map.
    """

    def __init__(self, in_dim: int, out_dim: int, width: int | None = None) -> None:
        super().__init__()
        self.reduce = None if width is None else nn.Linear(in_dim, width)
        self.expand = nn.Linear(in_dim if width is None else width, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, in_dim)`` -> ``(n, out_dim)``."""
        if self.reduce is None:
            return self.expand(features)
        if self.reduce.out_features <= self.expand.out_features:
            return self.expand(self.reduce(features))
        # two maps without an activation are one: composing them first makes the large product out_dim wide, not width
        weight = self.expand.weight @ self.reduce.weight
        bias = self.expand.weight @ self.reduce.bias + self.expand.bias
        return F.linear(features, weight, bias)


def width_for_variance(variances: np.ndarray, share: float = 0.95) -> int:
    """Smallest number of principal axes that keep ``share`` of the variance.

    Args:
        variances: variance along each principal axis, ``(n_axes,)``, descending.
        share: in (0, 1].
    """
    total = variances.sum()
    if total <= 0:
        return 1
    return min(int(np.searchsorted(np.cumsum(variances) / total, share - 1e-9)) + 1, len(variances))
