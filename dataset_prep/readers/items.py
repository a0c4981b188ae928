"""Items and their metadata, whatever kind of file they came from."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..match import Seen, enough, no_match, other_spelling, respelled_items
from ..skips import Skips
from ..tokens import clean_text, id_fault

#: Characters of text that are kept per item: pandas' reader refuses fields beyond 131,072.
MAX_TEXT = 30_000

_TAG = re.compile(r"<[^<>]{1,2000}>")


@dataclass
class Item:
    """One item's metadata: raw texts (see :meth:`text`) and the addresses of its images, the best first."""

    id: str
    title: str = ""
    brand: str = ""
    categories: list[str] = field(default_factory=list)
    description: str = ""
    image_urls: list[str] = field(default_factory=list)

    def clean_title(self) -> str:
        """The title as one line of plain text."""
        return plain(self.title)

    def text(self) -> str:
        """Title, brand, categories and description as one line of plain text; "" when there is none."""
        # nested lists repeat a category
        parts = [self.title, self.brand, *dict.fromkeys(self.categories), self.description]
        return " ".join(filter(None, map(plain, parts)))[:MAX_TEXT].rstrip()


class Catalogue:
    """Collects the metadata of the wanted items; if an item is described twice, the first record counts.

    Attributes:
        items: id -> :class:`Item`, for those of the wanted items that were found.
        repeated: reason -> number of further records of an item that was described before.
        seen: the ids of all records, wanted or not.
    """

    def __init__(self, wanted: set[str], skips: Skips) -> None:
        self.wanted, self.skips = wanted, skips
        self.items: dict[str, Item] = {}
        self.seen = Seen()
        self.repeated = {"item described twice": 0, "item described twice, with different texts": 0}

    def add(self, item: Item) -> None:
        """Add an item; one without a usable id is counted as an unusable line."""
        item.id = item.id.strip()
        if item.id not in self.wanted and (fault := id_fault(item.id)):
            self.skips.add(fault)
            return
        self.seen.add(item.id)
        if item.id not in self.wanted:
            return
        if item.id in self.items:
            same, different = self.repeated
            self.repeated[same if self.items[item.id].text() == item.text() else different] += 1
        else:
            self.items[item.id] = item


def read_matching_items(
    read: Callable[[set[str], Skips], Catalogue], item_ids: Sequence[str], file: Path, max_bad: float
) -> tuple[Catalogue, Skips]:
    """The metadata of a dataset's items, even where one side writes ``26`` and the other ``26.0``.

    Args:
        read: reads the metadata of a set of ids from ``file``.
        item_ids: the items of the dataset; the catalogue has no other keys.
        max_bad: the largest share of unusable lines.

    Raises:
        UserError: too many lines are unusable, or the file describes under 1 % of the items.
    """
    skips = Skips(file)
    catalogue = read(set(item_ids), skips)
    skips.check(max_bad)
    if enough(len(catalogue.items), len(item_ids)):
        if note := respelled_items(item_ids, catalogue.items, catalogue.seen.examples):
            skips.notes.append(f"{file.name}: {note}")
        return catalogue, skips
    n_matched, seen = len(catalogue.items), catalogue.seen
    if other := other_spelling(item_ids, seen):
        spelled, note = other
        skips = Skips(file)
        catalogue = read({spelled(item) for item in item_ids}, skips)
        if enough(len(catalogue.items), len(item_ids)):
            catalogue.items = {
                item: catalogue.items[name] for item in item_ids if (name := spelled(item)) in catalogue.items
            }
            skips.notes.append(f"{file.name}: {note}")
            return catalogue, skips
    raise no_match(item_ids, seen, n_matched, file.name)


def plain(text: str) -> str:
    """``text`` without HTML tags and entities, control characters and runs of blanks."""
    text = text[: 4 * MAX_TEXT]
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = html.unescape(text)
    return clean_text(text)[:MAX_TEXT]


def strings(value: object) -> Iterator[str]:
    """All texts in a value that may be a text, a number or (nested) lists of them, in order."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from strings(part)


def joined(value: object) -> str:
    """All texts in ``value``, separated by blanks."""
    return " ".join(strings(value))


def web_addresses(values: Iterable[object]) -> list[str]:
    """The distinct ``values`` that look like web addresses, in order."""
    return list(dict.fromkeys(v for v in values if isinstance(v, str) and v.startswith(("http://", "https://"))))
