"""How much each modality counts where similarities of items are added: as configured, or as the interactions say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.item_to_item import Factors


def modality_shares(
    given: object, similarities: Mapping[str, sp.csr_array | Factors], history: sp.csr_array
) -> dict[str, float]:
    """Share of each modality in a sum of similarities; the shares add up to 1.

    Args:
        given: the key ``modality_weights``: weights by modality, 0 for those that it does not name; None: modalities
            count as much as their similarities explain of how often two items have a user in common, the coefficient of
            determination of each alone.
        similarities: of each modality, ``(n_items, n_items)``; diagonals do not count.
        history: training interactions, ``(n_users, n_items)``.

    Raises:
        UserError: ``given`` is not a mapping of modalities to numbers from 0, or all of them are 0.
    """
    if given is None:
        weights = {name: _explained(matrix, history) for name, matrix in similarities.items()}
        if not any(weights.values()):
            weights = dict.fromkeys(similarities, 1.0)
    else:
        weights = dict.fromkeys(similarities, 0.0) | _checked(given, list(similarities))
    total = sum(weights.values())
    return {name: float(weight / total) for name, weight in weights.items()}


def _checked(given: object, names: list[str]) -> dict[str, float]:
    example = f"e.g. {{'{names[0]}': 1.0}}"
    if not isinstance(given, Mapping):
        raise UserError(f"modality_weights must map modalities to weights, {example}, got {given!r}")
    for name, weight in given.items():
        if name not in names:
            raise UserError(f"modality_weights names '{name}', which is no modality of this run: {', '.join(names)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < np.inf:
            raise UserError(f"modality_weights: {name} must be a number from 0, got {weight!r}")
    if not any(given.values()):
        raise UserError(f"modality_weights leaves no modality: give one of {', '.join(names)} a weight, {example}")
    return {name: float(weight) for name, weight in given.items()}


def _explained(similarities: sp.csr_array | Factors, history: sp.csr_array) -> float:
    """Coefficient of determination, but for a factor that all modalities have in common; 0 for a negative slope."""
    if isinstance(similarities, Factors):
        source, target = (part.astype(np.float64) for part in similarities)
        own = np.einsum("ij,ij->i", source, target)
        together = np.vdot(history @ source, history @ target)
        squares = np.vdot(source.T @ source, target.T @ target)
    else:
        matrix = similarities.astype(np.float64)
        own = matrix.diagonal()
        together = (history @ matrix).multiply(history).sum()
        squares = (matrix.data**2).sum()
    together -= history.power(2).sum(axis=0) @ own
    squares -= own @ own
    return together**2 / squares if together > 0 < squares else 0.0
