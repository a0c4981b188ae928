"""Divide interactions into training (0), validation (1) and test (2)."""

from __future__ import annotations

import numpy as np

from recbole_mambarec_common.errors import UserError

from .options import SPLIT_METHODS
from .tables import SPLITS, Interactions


def split(interactions: Interactions, method: str, seed: int) -> np.ndarray | None:
    """The part (n,) int8 of every interaction by one of :data:`~dataset_prep.options.SPLIT_METHODS`; None for ``none``.

    Args:
        interactions: needs timestamps for all but ``mmrec`` and ``none``.
        seed: of the shuffle of ``mmrec``; the others are not random.

    Raises:
        UserError: unknown method, no timestamps, or a part would be empty.
    """
    if method not in SPLIT_METHODS:
        raise UserError(f"unknown split {method!r}: choose one of {', '.join(SPLIT_METHODS)}")
    if method == "none":
        return None
    if method != "mmrec" and interactions.timestamp is None:
        raise UserError(f"the split {method} needs timestamps, and the data has none: choose --split mmrec")
    if method == "mmrec":
        parts = per_user(interactions.users, np.random.default_rng(seed).permutation(len(interactions)))
    elif method == "temporal-user":
        parts = per_user(interactions.users, interactions.timestamp)
    elif method == "leave-one-out":
        parts = leave_one_out(interactions.users, interactions.timestamp)
    else:
        parts = temporal_global(interactions.timestamp)
    sizes = np.bincount(parts, minlength=3)
    if not sizes.all():
        empty = SPLITS[int(np.flatnonzero(sizes == 0)[0])]
        raise UserError(f"the split {method} leaves the {empty} part empty: too few interactions per user")
    return parts


def held_out(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(validation, test) sizes of users with ``n`` interactions, about 8:1:1 as MMRec does it.

    With fewer than 10 interactions, one each. Otherwise int(0.2 n) are held out, half of them, rounded down, for
    validation. Of two interactions one is for training and one for test; a single one is for training.
    """
    n = np.asarray(n)
    both = np.where(n < 10, 2, n // 5)
    validation, test = both // 2, both - both // 2
    return np.where(n < 3, 0, validation), np.where(n < 2, 0, test)


def per_user(users: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Each user's interactions in the order of ``key``: first training, then validation, then test.

    With random keys this is MMRec's random split; with timestamps, each user's latest interactions are the test.
    """
    validation, test = held_out(np.bincount(users, minlength=1))
    return _cut(users, key, validation, test)


def leave_one_out(users: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Each user's last interaction for test, the one before for validation (if there are at least three)."""
    n = np.bincount(users, minlength=1)
    return _cut(users, timestamps, (n >= 3).astype(int), (n >= 2).astype(int))


def temporal_global(timestamps: np.ndarray, training: float = 0.8, validation: float = 0.1) -> np.ndarray:
    """Two points in time split all interactions about 8:1:1.

    Interactions of the same time stay together, so that nothing in training is later than anything in test.
    """
    ordered = np.sort(timestamps)
    n = len(ordered)
    # rounded rather than cut off, because 0.8 + 0.1 < 0.9 in binary fractions
    cuts = [min(round(share * n), n - 1) for share in (training, training + validation)]
    return np.searchsorted(ordered[cuts], timestamps, side="right").astype(np.int8)


def _cut(users: np.ndarray, key: np.ndarray, validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Parts (n,) int8: by ``key``, a user's last ``test[user]`` are 2 and the ``validation[user]`` before them 1."""
    order = np.lexsort((key, users))  # stable: equal keys stay in the order of the file
    users = users[order]
    # one past the last row of each user in that order
    ends = np.cumsum(np.bincount(users, minlength=1))
    row = np.arange(len(users), dtype=order.dtype)
    parts = np.zeros(len(users), dtype=np.int8)
    parts[order[row >= (ends - test - validation)[users]]] = 1
    parts[order[row >= (ends - test)[users]]] = 2
    return parts
