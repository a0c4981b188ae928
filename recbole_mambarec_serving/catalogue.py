"""What is known of the items besides their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.types import ItemInfo


@dataclass
class Catalogue:
    """Items by column.

    Attributes:
        ids: raw ids.
        titles, images: a text per item, None where there is none; None if the dataset has none at all.
        popularity: users who have the item in training, int64 ``(n_items,)``.
        modalities: name -> which items have it, bool ``(n_items,)``.
    """

    ids: Ids
    titles: Sequence[str | None] | None
    images: Sequence[str | None] | None
    popularity: np.ndarray
    modalities: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def title(self, item: int) -> str | None:
        """The title of the item in a column."""
        return None if self.titles is None else self.titles[item]

    def info(self, item: int) -> ItemInfo:
        """All about the item in a column."""
        return ItemInfo(
            str(self.ids.tokens[item]),
            self.title(item),
            None if self.images is None else self.images[item],
            int(self.popularity[item]),
            tuple(name for name, present in self.modalities.items() if present[item]),
        )

    @cached_property
    def _searchable(self) -> list[tuple[str, str]]:
        titles = self.titles or [None] * len(self)
        return [(token.casefold(), (title or "").casefold()) for token, title in zip(self.ids.tokens.tolist(), titles)]

    def search(self, text: str, limit: int) -> list[int]:
        """Columns of items whose id or title contains the text, in whatever case: the id itself first, then titles and
        ids that begin with it, then the most popular."""
        wanted = text.strip().casefold()
        found = []
        for place, (token, title) in enumerate(self._searchable):
            if wanted in title or wanted in token:
                begins = title.startswith(wanted) or token.startswith(wanted)
                found.append((token != wanted, not begins, -int(self.popularity[place]), place))
        return [place for *_, place in sorted(found)[:limit]]

    def with_items(self, ids: Sequence[str], modalities: Mapping[str, np.ndarray]) -> Catalogue:
        """The catalogue with more items at its end, of which nothing is known but their modalities.

        Args:
            modalities: name -> which of the new items have it.
        """
        n_new, none = len(ids), np.zeros(len(ids), dtype=bool)
        nothing: list[str | None] = [None] * n_new
        return Catalogue(
            Ids("item", [*self.ids.tokens.tolist(), *ids]),
            None if self.titles is None else [*self.titles, *nothing],
            None if self.images is None else [*self.images, *nothing],
            np.concatenate([self.popularity, np.zeros(n_new, dtype=np.int64)]),
            {name: np.concatenate([there, modalities.get(name, none)]) for name, there in self.modalities.items()},
        )
