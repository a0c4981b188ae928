"""Masks of the interactions to keep."""

from __future__ import annotations

import numpy as np

from .tables import Interactions


def latest_of_duplicates(interactions: Interactions) -> np.ndarray:
    """Mask (n,) that keeps one row of each pair (user, item): the latest, or the last in the file among equally late.

    Without timestamps it is the last in the file.
    """
    n = len(interactions)
    if not n:
        return np.ones(0, dtype=bool)
    pair = interactions.users.astype(np.int64) * (int(interactions.items.max()) + 1) + interactions.items
    # sorting all rows by two keys costs time and memory, and few rows share their pair: only those are sorted
    ordered = np.sort(pair)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    mask = np.ones(n, dtype=bool)
    if not len(repeated):
        return mask
    place = np.searchsorted(repeated, pair)
    place[place == len(repeated)] = 0
    rows = np.flatnonzero(repeated[place] == pair)
    del place
    pair = pair[rows]
    keys = (pair,) if interactions.timestamp is None else (interactions.timestamp[rows], pair)
    order = np.lexsort(keys)  # stable: equal ones stay in the order of the file
    pair = pair[order]
    mask[rows[order[:-1][pair[1:] == pair[:-1]]]] = False
    return mask


def rated_at_least(interactions: Interactions, min_rating: float | None) -> np.ndarray:
    """Mask (n,) of the interactions rated ``min_rating`` or more; all of them if it is None or there are no ratings."""
    if min_rating is None or interactions.rating is None:
        return np.ones(len(interactions), dtype=bool)
    return interactions.rating >= min_rating
