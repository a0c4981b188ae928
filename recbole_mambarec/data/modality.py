"""One modality of the catalogue: feature rows that travel with the ids of their items."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_mambarec.data.rows import ItemRows
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.files import what_it_is
from recbole_mambarec_common.ids import LEAST_SHARE, mismatch

_FLOATS = (np.float16, np.float32, np.float64)
# rows read at a time when a memory-mapped array is checked and gathered: bounds the temporary copies
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class ItemFeatures:
    """Features of one modality in RecBole's internal item order.

    Attributes:
        name: modality name, e.g. ``image``.
        matrix: float32, shape ``(n_items, dim)``; items that lack the modality have the mean of the other rows. It is
            an array whose row 0 (the padding item) is zero, or :class:`ItemRows`, whose row 0 has no meaning.
        present: bool, shape ``(n_items,)``; False for the padding item and for items that lack the modality.
    """

    name: str
    matrix: np.ndarray | ItemRows
    present: np.ndarray

    @property
    def dim(self) -> int:
        """Width of a feature row."""
        return self.matrix.shape[1]

    @property
    def items(self) -> np.ndarray | ItemRows:
        """The matrix without the padding row."""
        return self.matrix.after(1) if isinstance(self.matrix, ItemRows) else self.matrix[1:]

    @property
    def missing_share(self) -> float:
        """Share of the items (without the padding item) that lack the modality, 0..1."""
        return 1.0 - float(self.present[1:].mean()) if len(self.present) > 1 else 0.0


@dataclass(frozen=True)
class Modality:
    """Feature rows as they are on disk, with the item token of each row.

    Attributes:
        name: modality name.
        matrix: float16, float32 or float64, shape ``(rows, dim)``, usually memory-mapped. A row of NaN means that
            the item lacks the modality.
        ids: item tokens, shape ``(rows,)``; ``ids[k]`` belongs to ``matrix[k]``.
        source: the name of the array in messages.
    """

    name: str
    matrix: np.ndarray
    ids: np.ndarray
    source: str = field(default="")

    def __post_init__(self) -> None:
        where = self.source or f"modality {self.name}"
        if self.matrix.ndim != 2:
            raise UserError(f"{where} has shape {self.matrix.shape}: expected one row per item, (items, dim)")
        if self.matrix.dtype not in _FLOATS:
            raise UserError(f"{where} has dtype {self.matrix.dtype}: store it as float16, float32 or float64")
        if len(self.matrix) != len(self.ids):
            raise UserError(
                f"{where} has {len(self.matrix)} rows but the .item file beside it has {len(self.ids)} items: "
                "row k must belong to line k of the .item file, so prepare the two together"
            )
        if self.matrix.shape[1] == 0:
            raise UserError(f"{where} has width 0: each item needs at least one feature")

    @classmethod
    def load(cls, name: str, path: str | Path, ids: np.ndarray) -> Modality:
        """Memory-map ``path`` (.npy) as modality ``name``.

        Raises:
            UserError: the file is missing or truncated, is not an array of floats (the message says what it is, if that
                is known), or its rows do not match ``ids``.
        """
        path = Path(path)
        try:
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError, OverflowError) as error:
            # numpy reports a truncated or damaged header in all these ways
            what = what_it_is(path)
            if isinstance(error, FileNotFoundError):
                also = f", only {what}" if what else ""
                raise UserError(f"features of modality '{name}' not found: there is no file {path}{also}") from None
            # numpy suggests unpickling whatever is not an array
            reason = f" ({error})" if "pickle" not in str(error) else ""
            what = what or f"truncated or in another format{reason}: write it again with numpy.save"
            raise UserError(f"{path} is not a readable .npy array: it is {what}") from None
        if not isinstance(matrix, np.ndarray):
            # numpy opens archives of arrays under any name
            raise UserError(f"{path} is not a readable .npy array: it is {what_it_is(path)}")
        return cls(name, matrix, ids, source=str(path))

    def align(
        self, token_to_id: dict[str, int], n_items: int, memory: float = math.inf, hidden: np.ndarray | None = None
    ) -> ItemFeatures:
        """Gather the rows by token into RecBole's internal order; the order of rows matters nowhere else.

        Args:
            token_to_id: item token -> internal id (0 is the padding item), without tokens that RecBole filtered out.
            n_items: number of internal ids, including the padding item.
            memory: bytes; if a matrix takes more as float32, it is checked but not gathered, and its rows stay on disk
                (:class:`ItemRows`).
            hidden: rows that count as missing whatever they hold, bool ``(rows,)``; None: none.

        Raises:
            UserError: an internal item has no row here, a row is partly NaN or infinite, under 1 % of the items have
                features, or none has any because all are hidden.
        """
        where = self.source or f"modality {self.name}"
        rows = np.full(n_items, -1, dtype=np.int64)
        for row, token in enumerate(self.ids):
            item = token_to_id.get(token)
            if item is not None:
                rows[item] = row
        without = [token for token, item in token_to_id.items() if item > 0 and rows[item] < 0]
        if without:
            used = [token for token, item in token_to_id.items() if item > 0]
            raise UserError(
                mismatch(used, set(self.ids), "item", "the interactions", f"the .item file of {where}")
                or f"{len(without)} items of the interactions have no row in {where}, e.g. '{without[0]}': add a line "
                "to the .item file and a row to each array (a row of NaN if the modality is missing)"
            )

        gathers = n_items * self.matrix.shape[1] * 4 <= memory
        matrix = np.zeros((n_items if gathers else 0, self.matrix.shape[1]), dtype=np.float32)
        present = np.zeros(n_items, dtype=bool)
        total = np.zeros(self.matrix.shape[1], dtype=np.float64)
        for start in range(1, n_items, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, n_items)
            with np.errstate(over="ignore"):  # float64 values beyond float32 become inf and are reported below
                block = np.asarray(self.matrix[rows[start:stop]], dtype=np.float32)
            finite = np.isfinite(block)
            has_row = np.asarray(finite.all(axis=1))
            broken = ~has_row & ~np.isnan(block).all(axis=1)
            if broken.any():
                row = int(rows[start + int(np.argmax(broken))])
                raise UserError(
                    f"{where} has NaN or infinite values in row {row} (item '{self.ids[row]}'): only a whole row of "
                    "NaN is allowed (it means that the item lacks the modality)"
                )
            if hidden is not None:
                has_row &= ~hidden[rows[start:stop]]
            if gathers:
                matrix[start:stop] = np.where(has_row[:, None], block, 0.0)
            present[start:stop] = has_row
            total += block[has_row].sum(axis=0, dtype=np.float64)
        if hidden is not None and not present.any():
            raise UserError(
                f"missing_modalities hides '{self.name}' from every item that has it: leave '{self.name}' out of "
                "modalities, or lower the rate"
            )
        if hidden is None and n_items > 1 and present.sum() < LEAST_SHARE * (n_items - 1):
            few = f"features for only {present.sum()} of the {n_items - 1} items, the other rows are NaN"
            holds = few if present.any() else "no feature for any item"
            raise UserError(
                f"{where} holds {holds}: check that it was made for this dataset, or leave "
                f"'{self.name}' out of modalities"
            )
        mean = (total / max(int(present.sum()), 1)).astype(np.float32)
        if not gathers:
            return ItemFeatures(self.name, ItemRows(self.matrix, np.where(present, rows, -1), mean), present)
        missing = ~present
        missing[0] = False
        matrix[missing] = mean
        return ItemFeatures(self.name, matrix, present)
