"""What those users have who are most similar to users without training interactions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.data.user_features import UserFeatures
from recbole_mambarec_serving.scoring import OfSimilarUsers

# similarities that are held at a time (32 MiB), more where a single row is longer
_BLOCK_VALUES = 1 << 22


def of_similar_users(features: UserFeatures, history: sp.csr_array, k: int) -> OfSimilarUsers:
    """For each user without training interactions, how many of the most similar users with some have each item.

    Each of the ``k`` most similar users counts in proportion to the similarity, the least similar of them 1. If more
    users are as similar as the least similar of them, these share what places are left, so that the order of users does
    not matter. Users with the similarity 0 do not count. All users are compared, in blocks. Users with equal features
    have equal scores, and share a row.

    Args:
        history: binary training interactions, ``(n_users, n_items)``.
        k: neighbours.
    """
    sizes = np.diff(history.indptr)
    known, cold = np.flatnonzero(sizes > 0), np.flatnonzero(sizes == 0)
    rows = np.full(len(sizes), -1, dtype=np.int64)
    blocks = [sp.csr_array((0, history.shape[1]))]
    if len(known) and len(cold):
        _, first, profile = np.unique(features.codes[cold], axis=0, return_index=True, return_inverse=True)
        step = max(1, _BLOCK_VALUES // len(known))
        items = sp.csr_array(history[known], dtype=np.float64)
        for start in range(0, len(first), step):
            blocks.append(_weights(features.similarities(cold[first[start : start + step]], known), k) @ items)
        rows[cold] = profile.reshape(-1)
    scores = sp.csr_array(sp.vstack(blocks), dtype=np.float32)
    # rows that are empty are left out
    found = np.diff(scores.indptr) > 0
    number = np.append(np.where(found, np.cumsum(found) - 1, -1), -1)
    return OfSimilarUsers(number[rows], sp.csr_array(scores[found]))


def _weights(similarities: np.ndarray, k: int) -> sp.csr_array:
    """How much each known user counts, ``(n, n_known)``; the least in a row is 1."""
    k = min(k, similarities.shape[1])
    least = np.partition(similarities, -k, axis=1)[:, -k][:, None]
    above, tied = similarities > least, (similarities == least) & (similarities > 0)
    share = (k - above.sum(axis=1)) / np.maximum(tied.sum(axis=1), 1)
    weights = np.where(above, similarities, 0.0)
    weights[tied] = (similarities * share[:, None])[tied]
    smallest = np.where(weights > 0, weights, np.inf).min(axis=1)
    rows, columns = np.nonzero(weights)
    return sp.csr_array((weights[rows, columns] / smallest[rows], (rows, columns)), shape=weights.shape)
