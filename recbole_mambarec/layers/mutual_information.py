"""An upper bound on how much one representation tells of another."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClubEstimator(nn.Module):
    """A Gaussian that predicts one representation from another, and the bound on mutual information that it gives.

    :meth:`misfit` trains it, and the bound trains the representations. Source: CLUB (Cheng et al., ICML 2020,
    arXiv 2006.12013), with one other row per row instead of all.

    Args:
        dim: width of both representations.
        hidden: width between the two maps to the mean, and between those to the logarithm of the variance.
    """

    def __init__(self, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.log_variance = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.Tanh())

    def forward(self, given: Tensor, predicted: Tensor, order: Tensor) -> Tensor:
        """How much likelier each row of ``predicted`` is than another one, given its row of ``given``: the bound.

        Args:
            given, predicted: ``(n, dim)`` each.
            order: the other row for each row, ``(n,)``.
        """
        with torch.autocast(given.device.type, enabled=False):
            given, predicted = given.float(), predicted.float()
            mean = self.mean(given)
            gaps = (mean - predicted[order]).square() - (mean - predicted).square()
            return 0.5 * (gaps / self.log_variance(given).exp()).sum(dim=1).mean()

    def misfit(self, given: Tensor, predicted: Tensor) -> Tensor:
        """Twice the negative log-likelihood of ``predicted`` given ``given``, up to a constant; mean over rows."""
        log_variance = self.log_variance(given)
        return ((self.mean(given) - predicted).square() / log_variance.exp() + log_variance).sum(dim=1).mean()
