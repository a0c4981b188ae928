"""What is known about an item, whatever file it came from."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..skips import Skips
from ..tokens import clean_text, id_fault

#: Characters of text that are kept per item: pandas' reader refuses fields beyond 131,072.
MAX_TEXT = 30_000

_TAG = re.compile(r"<[^<>]{1,2000}>")


@dataclass
class Item:
    """One item's metadata: raw texts (see :meth:`text`) and the addresses of its images, best first."""

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
        # the same category stands several times in nested lists
        parts = [self.title, self.brand, *dict.fromkeys(self.categories), self.description]
        return " ".join(filter(None, map(plain, parts)))[:MAX_TEXT].rstrip()


class Catalogue:
    """Collects the metadata of the wanted items; of an item that comes twice the first record counts.

    ``items``: id -> :class:`Item`; ``again``: reason -> number of repeated records.
    """

    def __init__(self, wanted: set[str], skips: Skips) -> None:
        self.wanted, self.skips = wanted, skips
        self.items: dict[str, Item] = {}
        self.again = {"item described twice": 0, "item described twice, with different texts": 0}

    def add(self, item: Item) -> None:
        """Take an item; one without a usable id is counted as a faulty line."""
        item.id = item.id.strip()
        if item.id not in self.wanted:
            if fault := id_fault(item.id):
                self.skips.add(fault)
        elif item.id in self.items:
            same, different = self.again
            self.again[same if self.items[item.id].text() == item.text() else different] += 1
        else:
            self.items[item.id] = item


def plain(text: str) -> str:
    """Without HTML tags and entities, control characters and runs of blanks."""
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
    """All texts in ``value``, one blank between."""
    return " ".join(strings(value))


def web_addresses(values: Iterable[object]) -> list[str]:
    """Those of ``values`` that look like addresses, each once."""
    return list(dict.fromkeys(v for v in values if isinstance(v, str) and v.startswith(("http://", "https://"))))
