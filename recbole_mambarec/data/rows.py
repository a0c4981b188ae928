"""Feature matrices that stay on disk and are read row by row, block by block, as float32.

They have the part of an array's interface that this package needs of a feature matrix: ``shape``, ``len``, rows by
slice or by index array. Code that goes through a matrix in :func:`blocks` therefore works with both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch

# values per block: small enough to be allocated at no cost and to stay in the cache of the CPU
BLOCK_VALUES = 1 << 20


class ItemRows:
    """Rows of an array on disk in another order.

    Args:
        source: float16, float32 or float64, ``(rows, dim)``, memory-mapped.
        order: int64, ``(n,)``: the row of ``source`` for each row; where there is none, -1 for the first row of
            ``fill``, -2 for the second, and so on.
        fill: float32, ``(dim,)`` or ``(m, dim)``: the rows in place of those that do not exist.
    """

    def __init__(self, source: np.ndarray, order: np.ndarray, fill: np.ndarray) -> None:
        self._source, self._order, self._fill = np.asarray(source), order, np.atleast_2d(fill)
        self.shape = len(order), source.shape[1]
        self.stored_dtype = source.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        order = self._order[index]
        # torch widens float16 many times faster than numpy
        rows = torch.from_numpy(np.take(self._source, np.maximum(order, 0), axis=0)).float().numpy()
        absent = order < 0
        if absent.any():
            rows[absent] = self._fill[-1 - order[absent]]
        return rows

    def __deepcopy__(self, memo) -> ItemRows:
        # this object never changes, and copying a model must not read the file into memory
        return self

    def after(self, start: int) -> ItemRows:
        """The rows from ``start`` on, without reading any."""
        return ItemRows(self._source, self._order[start:], self._fill)

    def with_rows(self, index: np.ndarray, rows: np.ndarray) -> ItemRows:
        """These rows with others in some places.

        Args:
            index: the places, ``(m,)``.
            rows: float32, ``(m, dim)``, which are kept in memory.
        """
        order = self._order.copy()
        order[index] = -1 - len(self._fill) - np.arange(len(index))
        return ItemRows(self._source, order, np.concatenate([self._fill, rows]))


class SideBySide:
    """The columns of several matrices side by side, joined when a row is read."""

    shape: tuple[int, int]

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self.shape = len(parts[0]), sum(part.shape[1] for part in parts)
        self.stored_dtype = np.result_type(*(getattr(part, "stored_dtype", np.float32) for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return np.concatenate([part[index] for part in self._parts], axis=1)


Block = TypeVar("Block", covariant=True)
Rows = np.ndarray | ItemRows | SideBySide


def side_by_side(parts: Sequence[Rows]) -> Rows:
    """One matrix with all columns; in memory if all parts are."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays, axis=1) if len(arrays) == len(parts) else SideBySide(parts)


class Sliced(Protocol[Block]):
    """A matrix whose rows can be sliced: an array, a tensor, or rows on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: slice, /) -> Block: ...


def blocks(matrix: Sliced[Block], values: int = BLOCK_VALUES) -> Iterator[tuple[slice, Block]]:
    """(slice, rows) from the first row to the last, about ``values`` numbers at a time but at least one row."""
    n_rows, dim = matrix.shape
    step = max(1, values // max(dim, 1))
    for start in range(0, n_rows, step):
        place = slice(start, min(start + step, n_rows))
        yield place, matrix[place]
