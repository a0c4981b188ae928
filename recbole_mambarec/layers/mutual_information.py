"""An upper bound on how much one representation tells of another."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.noise import random_order


class ClubEstimator(nn.Module):
    """A Gaussian that predicts one representation from another, and the bound on mutual information that it gives.

    Source: CLUB (Cheng et al., ICML 2020, arXiv 2006.12013), with one other row per row instead of all.

    Args:
        dim: width of both representations.
        hidden: width between the two maps to the mean, and between those to the logarithm of the variance.
    """

    def __init__(self, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.log_variance = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.Tanh())

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance for each row of ``given``, ``(n, dim)`` each."""
        return self.mean(given), self.log_variance(given)

    def bound(self, given: Tensor, predicted: Tensor, order: Tensor, trained: bool) -> Tensor:
        """How much likelier each row of ``predicted`` is than another one, given its row of ``given``; a scalar.

        Args:
            given, predicted: ``(n, dim)`` each.
            order: the other row for each row, ``(n,)``.
            trained: a gradient reaches the Gaussian, too; CLUB trains it with :meth:`misfit` alone.
        """
        with torch.autocast(given.device.type, enabled=False):
            given, predicted = given.float(), predicted.float()
            weights = {name: weight if trained else weight.detach() for name, weight in self.named_parameters()}
            return club_bound(*functional_call(self, weights, (given,)), predicted, order)

    def misfit(self, given: Tensor, predicted: Tensor) -> Tensor:
        """Twice the negative log-likelihood of ``predicted`` given ``given``, up to a constant; mean over rows."""
        mean, log_variance = self(given)
        return ((mean - predicted).square() / log_variance.exp() + log_variance).sum(dim=1).mean()


def club_bound(mean: Tensor, log_variance: Tensor, predicted: Tensor, order: Tensor) -> Tensor:
    """Mean over rows of the log-likelihood of ``predicted`` less that of ``predicted[order]``, ``(n, dim)`` each."""
    gaps = (mean - predicted[order]).square() - (mean - predicted).square()
    return 0.5 * (gaps / log_variance.exp()).sum(dim=1).mean()


class ClubBounds(nn.Module):
    """One :class:`ClubEstimator` per modality, which have an optimizer of their own.

    Args:
        modalities: their names.
        dim: width of the representations.
        steps: optimizer steps of each :meth:`fit`.
        learning_rate: of these steps.
        max_rows: rows that each step sees at most.
    """

    def __init__(self, modalities: Collection[str], dim: int, steps: int, learning_rate: float, max_rows: int) -> None:
        super().__init__()
        self.estimator = ModuleDict({m: ClubEstimator(dim) for m in modalities})
        self.steps, self.max_rows = steps, max_rows
        self.optimizer = torch.optim.Adam(self.estimator.parameters(), lr=learning_rate)

    def bound(self, given: Mapping[str, Tensor], predicted: Mapping[str, Tensor], trained: bool) -> Tensor:
        """Sum of the modalities' bounds under a fresh random order of the rows, see :meth:`ClubEstimator.bound`."""
        bounds = [
            estimator.bound(given[m], predicted[m], random_order(len(given[m]), given[m].device), trained)
            for m, estimator in self.estimator.items()
        ]
        return torch.stack(bounds).sum()

    def fit(self, given: Mapping[str, Tensor], predicted: Mapping[str, Tensor]) -> None:
        """Make ``predicted`` likelier given ``given``, modality -> ``(n, dim)`` each, without gradient."""
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            for m, estimator in self.estimator.items():
                rows = random_order(len(given[m]), given[m].device)[: self.max_rows]
                estimator.misfit(given[m][rows], predicted[m][rows]).backward()
            self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def state(self) -> dict:
        """State of the optimizer, for a checkpoint."""
        return self.optimizer.state_dict()

    @state.setter
    def state(self, value: dict) -> None:
        # a copy, because the optimizer writes into its state, which may still be mapped from a file
        self.optimizer.load_state_dict(copy.deepcopy(value))
