"""Drop what is not wanted of the readable interactions, counted by reason."""

from __future__ import annotations

import numpy as np

from .tables import Interactions


def latest_of_duplicates(interactions: Interactions) -> np.ndarray:
    """Mask (n,): of each pair (user, item) the row with the latest timestamp, of equal ones the last row.

    Without timestamps the last row of each pair.
    """
    n = len(interactions)
    mask = np.zeros(n, dtype=bool)
    if not n:
        return mask
    pair = interactions.users.astype(np.int64) * (int(interactions.items.max()) + 1) + interactions.items
    keys = (pair,) if interactions.timestamp is None else (interactions.timestamp, pair)
    order = np.lexsort(keys)  # stable: equal ones stay in the order of the file
    pair = pair[order]
    last = np.append(pair[1:] != pair[:-1], True)
    mask[order[last]] = True
    return mask


def at_least(interactions: Interactions, min_rating: float | None) -> np.ndarray:
    """Mask (n,) of the interactions rated ``min_rating`` or more; all if it is None or none has a rating."""
    if min_rating is None or interactions.rating is None:
        return np.ones(len(interactions), dtype=bool)
    return interactions.rating >= min_rating
