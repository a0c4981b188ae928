"""Rows on a common scale."""

from __future__ import annotations

from torch import Tensor


def standardised_rows(x: Tensor) -> Tensor:
    """Each row less its mean, over its standard deviation; 0 where all values of a row are the same: ``(B, n)``."""
    centred = x - x.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt_()
    return centred.div_(deviation.masked_fill_(deviation == 0, 1.0))
