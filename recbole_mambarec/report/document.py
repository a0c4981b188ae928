"""The parts of a report, independent of the format in which it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text, spread: a value and, if there is one, its standard deviation.
        rank: ``best`` or ``second`` in its column, or "".
        star: the statement of significance under the table applies.
        aside: not measured here, e.g. published.
    """

    text: str
    spread: str = ""
    rank: str = ""
    star: bool = False
    aside: bool = False


@dataclass(frozen=True)
class Block:
    """Rows under a common heading, such as a dataset; the first cell of a row is its name.

    Attributes:
        kinds: what each row belongs to; a writer puts a line before the first row of each kind. Empty: all are alike.
    """

    heading: str
    rows: list[list[Cell]]
    kinds: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[tuple[str, list[Cell]]]:
        """The rows, each with the name of its kind if it is the first of it, else ""."""
        before = ""
        for row, kind in zip(self.rows, self.kinds or [""] * len(self.rows)):
            yield (kind if kind != before else ""), row
            before = kind


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: for links and labels, e.g. ``main``.
        words: number of leading columns that hold words rather than numbers.
        notes: sentences to be written under it.
        origin: a sentence on commands, data and versions.
        folded: a page shows it when its caption is clicked.
    """

    name: str
    caption: str
    header: list[str]
    blocks: list[Block]
    words: int = 1
    notes: list[str] = field(default_factory=list)
    origin: str = ""
    folded: bool = False

    def padding(self, column: int, cell: Cell) -> str:
        """The longest spread in the column, whose width keeps values aligned if this cell has none; else ""."""
        if cell.spread:
            return ""
        return max((row[column].spread for block in self.blocks for row in block.rows), key=len, default="")


@dataclass(frozen=True)
class Chart:
    """A chart that has been drawn.

    Attributes:
        name: the name of its files, without the ending.
        alt: alternative text, for readers who cannot see it.
        svg, png: contents of its files.
        size: width and height in pixels on a page.
        origin: as for a table.
    """

    name: str
    caption: str
    alt: str
    svg: bytes = field(repr=False)
    png: bytes = field(repr=False)
    size: tuple[int, int]
    origin: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report; ``commands`` are (name, command line)."""

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Omission:
    """A section that was left out, and why."""

    title: str
    reason: str


@dataclass(frozen=True)
class Report:
    """A whole report; ``command`` is the command line that writes it."""

    title: str
    datasets: list[str]
    summary: list[str]
    sections: list[Section]
    omissions: list[Omission]
    command: str


def with_unique_names(sections: list[Section]) -> list[Section]:
    """The same sections, in which repeated names of charts and of tables get a number."""
    taken: dict[tuple[type, str], int] = {}

    def renamed(part):
        times = taken[type(part), part.name] = taken.get((type(part), part.name), 0) + 1
        return part if times == 1 else replace(part, name=f"{part.name}-{times}")

    return [
        replace(section, tables=list(map(renamed, section.tables)), charts=list(map(renamed, section.charts)))
        for section in sections
    ]


def number(value: float | None, places: int = 4) -> str:
    """A number with fixed places and a proper minus sign."""
    return MISSING if value is None else f"{value:.{places}f}".replace("-", "−")


def listing(items: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def count(n: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``, ``19 445 users``."""
    return f"{thousands(n)} {noun}{'s' * (n != 1)}"


def thousands(n: int) -> str:
    """``19 445``, with a no-break space."""
    return f"{n:,}".replace(",", "\N{NO-BREAK SPACE}")


def slug(name: str) -> str:
    """A name for files and links."""
    return "-".join(filter(None, "".join(c if c.isalnum() and c.isascii() else " " for c in name).split())) or "unnamed"
