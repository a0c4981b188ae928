"""A weighted sum of several models' scores, which are brought to a common scale for each user first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.standardised import standardised_rows
from recbole_mambarec.scoring.scorer import Scorer, in_order
from recbole_mambarec.value_checks import check_choice
from recbole_mambarec_serving.scoring import RANK_OFFSET


def zscore(scores: Tensor) -> Tensor:
    """Distance from the mean of the user's scores, in their standard deviations; 0 where all scores are the same."""
    return standardised_rows(scores)


def ranks(scores: Tensor) -> Tensor:
    """``1 / (60 + rank)``, with the rank from 1 among the user's scores; equal scores have their mean rank."""
    ascending = (-scores).sort(dim=1).values
    before, up_to = (torch.searchsorted(ascending, -scores, right=right) for right in (False, True))
    return 1.0 / (RANK_OFFSET + (before + up_to + 1).to(scores.dtype) / 2)


def raw(scores: Tensor) -> Tensor:
    """The scores themselves, whose scale a weight has to make up for."""
    return scores


#: name -> function of one model's scores ``(B, n_items)``, float64 and finite
NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {"zscore": zscore, "ranks": ranks, "raw": raw}


class FusedScorer:
    """The sum of normalised scores, weighted; a :class:`~recbole_mambarec.scoring.scorer.Scorer` itself.

    Sums are in float64: each normalisation keeps the order of a user's float32 scores, so that a fusion in which one
    part alone has a weight ranks as that part does.

    Args:
        parts: scorers of the same users and items; those of the first decide about the order.
        weights: one per part, not negative, not all zero.
        normalisation: a name in :data:`NORMALISATIONS`.

    Raises:
        UserError: the parts differ in their users or items, or a weight or the normalisation is none.
    """

    name = "Fusion"

    def __init__(self, parts: Sequence[Scorer], weights: Sequence[float], normalisation: str = "zscore") -> None:
        check_choice("normalisation", normalisation, NORMALISATIONS)
        check_weights(weights, len(parts))
        self.users, self.items = parts[0].users, parts[0].items
        self.parts = [in_order(part, self.users, self.items) for part in parts]
        self.weights, self.normalisation = [float(weight) for weight in weights], normalisation

    def normalised(self, part: int, users: np.ndarray) -> Tensor:
        """Normalised scores of one part, float64 ``(B, n_items)``.

        A score of minus infinity counts as the lowest finite score of the user.

        Raises:
            UserError: a score is NaN or infinite.
        """
        scores = self.parts[part].scores(users).double()
        finite = scores.isfinite()
        if not finite.all():
            if not torch.equal(~finite, scores.isneginf()):
                name = self.parts[part].name
                raise UserError(f"{name} gives scores that are no numbers: leave it out, or train it again")
            lowest = scores.masked_fill(~finite, torch.inf).min(dim=1, keepdim=True).values
            scores = torch.where(finite, scores, lowest.nan_to_num(posinf=0.0))
        return NORMALISATIONS[self.normalisation](scores)

    def scores(self, users: np.ndarray) -> Tensor:
        """See :meth:`~recbole_mambarec.scoring.scorer.Scorer.scores`; the parts are scored one after another."""
        total = None
        for part, weight in enumerate(self.weights):
            if weight:
                scores = self.normalised(part, users).mul(weight)
                total = scores if total is None else total.add_(scores.to(total.device))
        assert total is not None  # some weight is positive
        return total


def check_weights(weights: Sequence[float], n_parts: int) -> None:
    """Refuse weights with which nothing can be ranked.

    Raises:
        UserError: their number is not that of the parts, one is negative or not finite, or all are zero.
    """
    if len(weights) != n_parts:
        raise UserError(f"there are {n_parts} models to fuse, and {len(weights)} weights: give one for each")
    for weight in weights:
        if not 0 <= weight < float("inf"):
            raise UserError(f"a weight must be a number from 0, got {weight}")
    if not any(weights):
        raise UserError("all weights are zero, so that nothing would be ranked: give at least one model a weight")
