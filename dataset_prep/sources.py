"""What :func:`dataset_prep.prepare.prepare` needs to know about raw files of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .skips import Skips

if TYPE_CHECKING:
    import polars as pl

    from .readers.items import Catalogue


class Source(Protocol):
    """Interactions with raw ids and, where there is one, a file that describes the items.

    Implemented by :class:`dataset_prep.readers.amazon.AmazonReviews` and
    :class:`dataset_prep.readers.tabular.InteractionTable`. (Layouts that number their users and items and bring their
    own split, such as MMRec's, are read without any of the steps: see :mod:`dataset_prep.readers.numbered`.)

    Attributes:
        interactions: the file of interactions.
        items: the file that describes the items, or None.
        settings: what decides, besides the content of the files, what is read from them; plain values that can be
            written as JSON. An interrupted preparation is resumed only under the same settings.
        card: the entries of the dataset's card that describe the format.
    """

    interactions: Path
    items: Path | None
    settings: list
    card: dict

    def read_interactions(self, skips: Skips) -> Iterator[pl.DataFrame]:
        """Batches of usable interactions in the order of the file; unusable lines are counted in ``skips``.

        Each batch has the columns ``user`` and ``item`` (text) and, if the source has them, ``rating`` (float32) and
        ``timestamp`` (float64, seconds since 1970-01-01 UTC).
        """
        ...

    def read_items(self, item_ids: set[str], skips: Skips) -> Catalogue:
        """What the file :attr:`items` says about ``item_ids``; unusable lines are counted in ``skips``."""
        ...
