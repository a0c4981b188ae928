"""Items compared by their features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.ranking import largest

# values of a block of rows that are compared at a time (64 MiB as float32)
_BLOCK_VALUES = 1 << 24


class Features(Protocol):
    """Features of the items, scaled to length 1, by modality."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Modality -> number of features."""
        ...

    def rows(self, modality: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a modality, float32 ``(stop - start, width)``; zero for items without it."""
        ...


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32; a row of zeros stays one."""
    rows = np.asarray(rows, dtype=np.float32)
    # divided by the largest first, so that no square overflows
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0), 1e-30)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def cosines(features: Features, modality: str, wanted: np.ndarray, n_items: int) -> np.ndarray:
    """Cosines of ``wanted`` ``(n, width)``, rows of length 1, with all items: ``(n, n_items)``."""
    step = max(1, _BLOCK_VALUES // features.widths[modality])
    found = [wanted @ features.rows(modality, s, min(s + step, n_items)).T for s in range(0, n_items, step)]
    return np.concatenate(found, axis=1)


class MoreFeatures:
    """Features with new rows at their end.

    Args:
        base: of the first ``n_items`` rows.
        new: modality -> rows of length 1; modalities that it lacks have rows of zeros.
        n_new: number of new rows.
    """

    def __init__(self, base: Features, n_items: int, new: Mapping[str, np.ndarray], n_new: int) -> None:
        self.widths: Mapping[str, int] = base.widths
        self._base, self._n_items = base, n_items
        self._new = {m: new.get(m, np.zeros((n_new, width), dtype=np.float32)) for m, width in base.widths.items()}

    def rows(self, modality: str, start: int, stop: int) -> np.ndarray:
        """See :meth:`Features.rows`."""
        known = self._base.rows(modality, min(start, self._n_items), min(stop, self._n_items))
        new = self._new[modality][max(start - self._n_items, 0) : max(stop - self._n_items, 0)]
        return np.concatenate([known, new])


def check_new(features: Features, given: Mapping[str, np.ndarray], n_new: int) -> dict[str, np.ndarray]:
    """Features of new items as rows of length 1; a row of NaN becomes zeros, for an item that lacks the modality.

    Raises:
        UserError: a modality is unknown, an array has another shape, values are infinite, or an item has no features.
    """
    found, has_some = {}, np.zeros(n_new, dtype=bool)
    for modality, values in given.items():
        if modality not in features.widths:
            raise UserError(f"there is no modality '{modality}' here: use {' or '.join(features.widths) or 'none'}")
        rows, shape = np.asarray(values, dtype=np.float32), (n_new, features.widths[modality])
        if rows.shape != shape:
            raise UserError(
                f"features of modality '{modality}' must have the shape {shape}, a row for each new item, not "
                f"{rows.shape}"
            )
        missing = np.asarray(np.isnan(rows).all(axis=1))
        rows = np.where(missing[:, None], 0.0, rows)
        if not np.isfinite(rows).all():
            raise UserError(f"features of modality '{modality}' of the new items have values that are no numbers")
        found[modality] = unit(rows)
        has_some |= ~missing & rows.any(axis=1)
    if not has_some.all():
        place = int(np.argmin(has_some))
        raise UserError(f"new item {place + 1} of {n_new} has no features: an item is found by those of a modality")
    return found


def means_of_nearest(
    features: Features, n_items: int, given: Mapping[str, np.ndarray], donors: np.ndarray, k: int
) -> sp.csr_array:
    """For each new item the mean over the ``k`` donors that are most similar: rows of weights, ``(n_new, n_items)``.

    The similarity is that of the key ``cold_items: neighbours``: the sum of the cosines in the modalities that the new
    item has; one that the other item lacks adds nothing.

    Args:
        given: modality -> rows of the new items, of length 1 or zero.
        donors: which known items may be neighbours, bool ``(n_items,)``.
    """
    similarity = np.sum([cosines(features, m, rows, n_items) for m, rows in given.items()], axis=0)
    nearest, _ = largest(np.where(donors, similarity, -np.inf), min(k, n_items))
    rows, places = np.nonzero(nearest >= 0)
    weights = 1.0 / np.maximum((nearest >= 0).sum(axis=1), 1)[rows]
    return sp.csr_array((weights, (rows, nearest[rows, places])), shape=(len(nearest), n_items))
