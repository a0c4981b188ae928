"""The function that gives new users of an inner-product model an embedding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_serving.ranking import BLOCK_VALUES, largest
from recbole_mambarec_serving.scoring import FoldIn, Fused, InnerProducts, Scoring, WithColdUsers

# ridge penalty, as a share of the mean square of the inputs
_PENALTY = 1e-3
_BLOCK_USERS = 1 << 16


def fitted(users: np.ndarray, items: np.ndarray, history: sp.csr_array) -> FoldIn:
    """The least-squares fit to all users who have training interactions.

    Users need not be as wide as items: a table of ids that an embedding is made of can be predicted as well.

    Args:
        users: embeddings, or rows of another table of users, float32 ``(n_users, w)``.
        items: final embeddings, float32 ``(n_items, d)``.
        history: training interactions, float32 ``(n_users, n_items)``.
    """
    width, of_users = items.shape[1], users.shape[1]
    roots = np.sqrt(np.maximum(history.sum(axis=0), 1.0)).astype(np.float32)
    empty = FoldIn(np.zeros((2 * width, of_users), np.float32), np.zeros(of_users, np.float32), roots)
    known = np.flatnonzero(np.diff(history.indptr) > 0)
    gram, target = np.zeros((2 * width + 1,) * 2), np.zeros((2 * width + 1, of_users))
    for start in range(0, len(known), _BLOCK_USERS):
        rows = known[start : start + _BLOCK_USERS]
        inputs = empty.inputs(history[rows], items).astype(np.float64)
        inputs = np.concatenate([inputs, np.ones((len(rows), 1))], axis=1)
        gram += inputs.T @ inputs
        target += inputs.T @ users[rows].astype(np.float64)
    penalty = np.full(len(gram), _PENALTY * np.trace(gram[:-1, :-1]) / (2 * width))
    penalty[-1] = 0.0
    solution = np.linalg.lstsq(gram + np.diag(penalty), target, rcond=None)[0].astype(np.float32)
    return FoldIn(solution[:-1], solution[-1], roots)


def overlap(
    scoring: Scoring, history: sp.csr_array, fold_in: Callable | None = None, k: int = 20, n_users: int = 500
) -> dict[str, float | int]:
    """How much of a known user's list remains when the user is folded in by their training items.

    Users are drawn, a fifth at most, and are left out when functions are fitted. Their training items are left out of
    both lists.

    Args:
        scoring: of the model.
        history: training interactions, float32 ``(n_users, n_items)``.
        fold_in: scores of users with a history; None: those of ``scoring``, fitted again.

    Returns:
        ``overlap@20``, the mean share of the first 20 items, and ``users``, how many were drawn; empty if the model
        knows no other users.
    """
    if scoring.fold_in_by is None:
        return {}
    known = np.flatnonzero(np.diff(history.indptr) > 0)
    drawn = np.sort(np.random.default_rng(0).permutation(known)[: min(n_users, max(1, len(known) // 5))])
    if fold_in is None:
        fold_in = _fitted_without(drawn, scoring, history).fold_in
    shares: list[float] = []
    for rows in np.array_split(drawn, max(1, len(drawn) * history.shape[1] // BLOCK_VALUES)):
        mine, found = history[rows], []
        for scores in (scoring.scores(rows), fold_in(mine)):
            scores[np.repeat(np.arange(len(rows)), np.diff(mine.indptr)), mine.indices] = -np.inf
            found.append(largest(scores, min(k, history.shape[1]))[0])
        shares += [len({*a} & {*b} - {-1}) / max(1, len({*a} - {-1})) for a, b in zip(*(f.tolist() for f in found))]
    return {f"overlap@{k}": float(np.mean(shares)), "users": len(drawn)}


def _fitted_without(users: np.ndarray, scoring: Scoring, history: sp.csr_array) -> Scoring:
    """The scoring with functions for new users that some known users have no part in."""
    if isinstance(scoring, InnerProducts):
        rest = np.setdiff1d(np.arange(history.shape[0]), users)
        function = fitted(scoring.users[rest], scoring.items, history[rest])
        return InnerProducts(scoring.users, scoring.items, function)
    if isinstance(scoring, Fused):
        parts = [_fitted_without(users, part, history) for part in scoring.parts]
        return Fused(parts, scoring.weights, scoring.normalisation, history.shape[1])
    if isinstance(scoring, WithColdUsers):
        return _fitted_without(users, scoring.base, history)
    return scoring
