"""The tables that the readers fill, the steps change and the writer writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: Names of the parts of a split; the number in :attr:`Interactions.split` is the index into this tuple.
SPLITS = ("train", "valid", "test")


@dataclass
class Interactions:
    """Interactions of users with items; each array has one entry per interaction, in the order of the file.

    Attributes:
        users, items: (n,) int32, positions in the lists of ids that go with the table.
        rating: (n,) float32, or None.
        timestamp: (n,) float64, seconds since 1970-01-01 UTC, or None.
        split: (n,) int8, indices into :data:`SPLITS`, or None if the data is not split.
    """

    users: np.ndarray
    items: np.ndarray
    rating: np.ndarray | None = None
    timestamp: np.ndarray | None = None
    split: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Interactions:
        """The interactions at ``rows`` (positions or a mask), in that order."""
        return Interactions(
            *(
                None if column is None else column[rows]
                for column in (self.users, self.items, self.rating, self.timestamp, self.split)
            )
        )

    def counts(self) -> dict[str, int]:
        """Distinct users, distinct items and rows: the numbers that are reported after each step."""
        return {
            "users": _distinct(self.users),
            "items": _distinct(self.items),
            "interactions": len(self.users),
        }


def _distinct(codes: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0


@dataclass
class Prepared:
    """A dataset that is ready to be written by :func:`dataset_prep.write.write_dataset`.

    Attributes:
        name: the name of the dataset.
        user_ids, item_ids: raw ids (tokens). ``item_ids`` is the whole catalogue, in the order of the lines of
            ``<name>.item`` and of the rows of every modality.
        interactions: positions in these lists.
        item_columns: header with type (``"title:token_seq"``) -> one text per item.
        modalities: name -> (items, width) floating-point array, a row of NaN if the item lacks the modality. Models use
            the modalities in this order.
        card: the entries of ``dataset.json`` that the writer cannot determine by itself (sources, split, seed, steps,
            dropped rows, command).
    """

    name: str
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    interactions: Interactions
    item_columns: dict[str, Sequence[str]] = field(default_factory=dict)
    modalities: dict[str, np.ndarray] = field(default_factory=dict)
    card: dict = field(default_factory=dict)
