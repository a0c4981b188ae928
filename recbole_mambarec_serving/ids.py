"""Raw ids of users and items, and their rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from recbole_mambarec_common.errors import UserError


class UnknownUser(UserError):
    """A user whom the model has not been trained on."""


class UnknownItem(UserError):
    """An item that is not in the catalogue."""


_UNKNOWN: dict[str, type[UserError]] = {"user": UnknownUser, "item": UnknownItem}


class Ids:
    """Raw ids, in the order of a scorer's rows or columns.

    Args:
        what: ``user`` or ``item``, for messages.
        tokens: distinct raw ids, ``(n,)``.
    """

    def __init__(self, what: str, tokens: Sequence[str] | np.ndarray) -> None:
        self.what = what
        self.tokens = np.asarray(tokens).astype(str)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._places

    @cached_property
    def _places(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens.tolist())}

    def positions(self, tokens: Iterable[str]) -> np.ndarray:
        """Rows or columns of raw ids, int64 ``(n,)``.

        Raises:
            UnknownUser, UnknownItem: an id is unknown.
        """
        tokens = list(tokens)
        for token in tokens:
            if token not in self._places:
                raise _UNKNOWN.get(self.what, UserError)(
                    f"{self.what} '{token}' is not in the data that the model was trained on: it knows "
                    f"{len(self)} {self.what}s, such as '{self.tokens[0]}'"
                )
        return np.fromiter((self._places[token] for token in tokens), dtype=np.int64, count=len(tokens))

    def has_same(self, other: Ids) -> bool:
        """Whether both have the same ids, in any order."""
        return len(self) == len(other) and np.array_equal(np.sort(self.tokens), np.sort(other.tokens))
