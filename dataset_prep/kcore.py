"""The k-core of a set of interactions."""

from __future__ import annotations

import numpy as np


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Mask (n,) of the interactions in the k-core.

    The k-core is the largest subset in which every user and every item has at least ``k`` interactions. Users and items
    below ``k`` are dropped in turn until nothing changes; the result does not depend on the order.

    Args:
        users, items: (n,) integers from 0; a pair that occurs twice counts twice.
        k: at most 1 keeps everything.
    """
    users, items = np.asarray(users), np.asarray(items)
    # int32 halves the memory if it is wide enough
    rows = np.arange(len(users), dtype=np.int32 if len(users) < 2**31 else np.int64)
    while k > 1 and len(rows):
        before = len(rows)
        for codes in (users, items):
            enough = np.bincount(codes[rows], minlength=1) >= k
            rows = rows[enough[codes[rows]]]
            if not len(rows):
                break
        if len(rows) == before:
            break
    mask = np.zeros(len(users), dtype=bool)
    mask[rows] = True
    return mask
