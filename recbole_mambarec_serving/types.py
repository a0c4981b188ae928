"""What a :class:`~recbole_mambarec_serving.recommender.Recommender` answers with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An item of a ranked list.

    Attributes:
        item: its raw id.
        score: by which the list is ordered; only the order within a list has a meaning.
        title: if the dataset has one.
    """

    item: str
    score: float
    title: str | None = None


@dataclass(frozen=True, slots=True)
class ItemInfo:
    """What is known of an item.

    Attributes:
        id: its raw id.
        title: if the dataset has one.
        image: the address of a picture, if the dataset has one.
        popularity: users who have it in training.
        modalities: names of the modalities that it has.
    """

    id: str
    title: str | None = None
    image: str | None = None
    popularity: int = 0
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a score is made of.

    Attributes:
        score: of the item for the user.
        by_item: (raw id of an item in the user's training history, its share), the largest share first. Shares are
            parts of the sum of all absolute contributions; those that count against the item are negative.
        by_modality: modality -> how similar the item is to the user's items in it, as a share of all modalities; empty
            where the features are not at hand.
        exact: whether the contributions add up to the score (closed forms), rather than approximate it.
    """

    score: float
    by_item: list[tuple[str, float]]
    by_modality: dict[str, float] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ranked lists of a block of users, as arrays.

    Attributes:
        users: raw ids, ``(B,)``.
        items: columns of the catalogue, int64 ``(B, k)``; -1 where a list is shorter.
        scores: float ``(B, k)``; minus infinity where a list is shorter.
    """

    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray
