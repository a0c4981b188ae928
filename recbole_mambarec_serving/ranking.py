"""The largest scores of each row."""

from __future__ import annotations

import numpy as np

#: scores that exist at a time (32 MiB as float32)
BLOCK_VALUES = 1 << 23


def largest(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the k largest entries of each row, ``(B, k)`` each, descending.

    Of equal scores, the one in the earlier column comes first, so that a list depends on nothing but its scores.
    Entries of minus infinity are no candidates: column -1 stands where a row has fewer than k others.

    Args:
        scores: ``(B, n)``, without NaN.
        k: at most n.
    """
    n_rows, n = scores.shape
    found = np.full((n_rows, k), -1, dtype=np.int64)
    values = np.full((n_rows, k), -np.inf, dtype=scores.dtype)
    if not n_rows:
        return found, values
    threshold = np.partition(scores, n - k, axis=1)[:, n - k, None]
    rows, columns = np.nonzero((scores >= threshold) & (scores > -np.inf))
    kept = scores[rows, columns]
    # columns ascend within a row, and lexsort is stable
    order = np.lexsort((-kept, rows))
    rows, columns, kept = rows[order], columns[order], kept[order]
    starts = np.searchsorted(rows, np.arange(n_rows))
    places = np.arange(len(rows)) - starts[rows]
    among = places < k
    found[rows[among], places[among]] = columns[among]
    values[rows[among], places[among]] = kept[among]
    return found, values
