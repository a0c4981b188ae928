"""Any table of interactions and any table of items: CSV, TSV, Parquet or JSON lines, plain or gzip."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_mambarec_common.errors import UserError

from ..lines import blocks, must_be_a_file, objects
from ..skips import Skips
from .batches import (
    TIME_UNITS,
    Layout,
    delimited_table,
    parquet_table,
    pl,
    read_delimited,
    read_json_lines,
    read_parquet,
)
from .items import Catalogue, Item, joined, strings

_DELIMITED = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}
_JSON = (".jsonl", ".ndjson", ".json")

#: Column names that are tried, in this order, if the user gives none.
ALIASES = {
    "user": ("user_id", "userId", "userID", "user", "reviewerID", "uid", "customer_id"),
    "item": (
        *("item_id", "itemId", "itemID", "item", "asin", "parent_asin", "product_id", "iid", "movieId"),
        *("movie_id", "article_id", "video_id", "videoId"),
    ),
    "rating": ("rating", "overall", "stars", "score"),
    "timestamp": ("timestamp", "time", "unixReviewTime", "date", "datetime", "t_dat"),
    "title": ("title", "name", "prod_name"),
    "text": (
        *("brand", "category", "categories", "genres", "tags", "product_type_name", "description", "detail_desc"),
        "text",
    ),
}


class InteractionTable:
    """A table of interactions, with or without a table of items; a :class:`~dataset_prep.sources.Source`.

    Args:
        interactions: a CSV, TSV, Parquet or JSON-lines file.
        items: likewise, with one line per item.
        user_column, item_column, rating_column, time_column: columns of ``interactions``; those that are not given are
            guessed from usual names (:data:`ALIASES`).
        time_unit: one of :data:`~dataset_prep.readers.batches.TIME_UNITS`; guessed from the first value if None.
        item_id_column: the column of ids in ``items``, guessed if None.
        text_columns: columns of ``items`` that make up the text, the title first; guessed if empty.

    Raises:
        UserError: a file is missing or of an unknown kind, or a column is not there.
    """

    def __init__(
        self,
        interactions: str | Path,
        items: str | Path | None = None,
        *,
        user_column: str | None = None,
        item_column: str | None = None,
        rating_column: str | None = None,
        time_column: str | None = None,
        time_unit: str | None = None,
        item_id_column: str | None = None,
        text_columns: Sequence[str] = (),
    ) -> None:
        self.interactions = Path(interactions)
        self.items = None if items is None else Path(items)
        self._layout = layout_of(
            self.interactions,
            user=user_column,
            item=item_column,
            rating=rating_column,
            timestamp=time_column,
            time_unit=time_unit,
        )
        self._item_id, self._texts = item_id_column, list(text_columns)
        if self.items is not None:
            format_of(self.items)  # refuses what cannot be read before the interactions are
        self.settings = ["table", repr(self._layout), {"item": item_id_column, "texts": self._texts}]
        self.card = {
            "source_format": "table",
            "columns": self._layout.columns(),
            "time_unit": self._layout.time_unit,
        }

    def read_interactions(self, skips: Skips) -> Iterator[pl.DataFrame]:
        return read_interactions(self.interactions, self._layout, skips)

    def read_items(self, item_ids: set[str], skips: Skips) -> Catalogue:
        return read_items(self.items, item_ids, skips, item=self._item_id, texts=self._texts)


def format_of(path: Path) -> str:
    """``csv``, ``parquet`` or ``jsonl``, by the ending of the file's name (before ``.gz``).

    Raises:
        UserError: the ending is another one, or there is no such file.
    """
    must_be_a_file(path)
    endings = [ending.lower() for ending in path.suffixes]
    ending = endings[-2] if endings[-1:] == [".gz"] and len(endings) > 1 else "".join(endings[-1:])
    if ending in _DELIMITED:
        return "csv"
    if ending in _JSON:
        return "jsonl"
    if ending in (".parquet", ".pq"):
        return "parquet"
    raise UserError(f"{path.name}: unknown kind of table: the name must end in .csv, .tsv, .jsonl or .parquet")


def _delimiter(path: Path) -> str:
    """The separator of the first line: the usual one of the file's ending if it occurs, else the most frequent one."""
    usual = next(_DELIMITED[ending.lower()] for ending in reversed(path.suffixes) if ending.lower() in _DELIMITED)
    stream = blocks(path, size=1 << 16)
    head = next(stream, b"").partition(b"\n")[0].decode("utf-8", "replace")
    stream.close()
    head = re.sub(r'"[^"]*"', "", head)
    return usual if usual in head else max(usual + ",\t;|", key=head.count)


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a table (for JSON lines: the keys of the first 20 objects)."""
    kind, skips = format_of(path), Skips(path.name)
    if kind == "jsonl":
        stream = objects(path, skips)
        keys = [key for _, record in zip(range(20), stream) for key in record]
        stream.close()
        if not keys:
            raise _no_objects(path, skips)
        return list(dict.fromkeys(keys))
    table = parquet_table(path, skips) if kind == "parquet" else delimited_table(path, _delimiter(path), skips)
    names, _ = next(table, ([], None))
    table.close()
    if not names:
        raise UserError(f"{path.name} holds no rows")
    return names


def _no_objects(path: Path, skips: Skips) -> UserError:
    if not skips.lines:
        return UserError(f"{path.name} is empty")
    stream = blocks(path, size=1 << 16)
    array = next(stream).lstrip().startswith(b"[")
    stream.close()
    what = "one JSON array" if array else "no JSON"
    return UserError(
        f"{path.name} is {what} in its first lines, expected one object per line: write it as such, "
        f"`pandas.read_json('{path.name}').to_json('{path.stem}.jsonl', orient='records', lines=True)`"
    )


def choose(what: str, given: str | None, names: Sequence[str], file: str, option: str | None = None) -> str | None:
    """The column for ``what``: the given one, else the first alias that is there, else None.

    Raises:
        UserError: there is no column of the given name; or no column is found, and ``option``, which could give one, is
            set.
    """
    if given is not None:
        if given not in names:
            raise UserError(f"{file} has no column {given} (columns: {', '.join(names)})")
        return given
    lower = {name.lower(): name for name in reversed(names)}
    for alias in ALIASES[what]:
        if alias.lower() in lower:
            return lower[alias.lower()]
    if option is not None:
        shown = ", ".join(names)[:300]
        raise UserError(
            f"{file}: which column holds the {what}? Give {option} (columns: {shown}; if that is a row of data, "
            "insert a line with the names of the columns above it)"
        )
    return None


def layout_of(
    path: Path,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    time_unit: str | None = None,
) -> Layout:
    """Which columns of a table of interactions to read; those that are not given are guessed from usual names.

    ``time_unit`` is one of :data:`TIME_UNITS`. If it is not given, the first value decides: text that is not a number
    is a date, and the size of a number distinguishes seconds from milli-, micro- and nanoseconds.
    """
    names = columns_of(path)
    layout = Layout(
        choose("user", user, names, path.name, "--user-column"),
        choose("item", item, names, path.name, "--item-column"),
        choose("rating", rating, names, path.name),
        choose("timestamp", timestamp, names, path.name),
    )
    if layout.timestamp is None:
        return layout
    unit = time_unit or _guess_unit(path, layout.timestamp)
    return Layout(layout.user, layout.item, layout.rating, layout.timestamp, unit)


def _guess_unit(path: Path, column: str) -> str:
    for value in _values(path, column):
        try:
            size = float(value)
        except (TypeError, ValueError):
            if isinstance(value, str) and not value.strip():
                continue
            return "iso"
        for unit, limit in (("s", 1e10), ("ms", 1e13), ("us", 1e16)):
            if abs(size) < limit:
                return unit
        return "ns"
    return "s"


def _values(path: Path, column: str) -> Iterator[Any]:
    kind, skips = format_of(path), Skips(path.name)
    if kind == "jsonl":
        for _, record in zip(range(20), objects(path, skips)):
            if record.get(column) is not None:
                yield record[column]
        return
    stream = (
        parquet_table(path, skips, [column]) if kind == "parquet" else delimited_table(path, _delimiter(path), skips)
    )
    for _, rows in stream:
        yield from rows[column].head(20).drop_nulls().to_list()
        return


def read_interactions(path: Path, layout: Layout, skips: Skips) -> Iterator[pl.DataFrame]:
    """Batches of the usable interactions in a table of any kind."""
    if layout.time_unit not in TIME_UNITS:
        raise UserError(f"unknown unit of time {layout.time_unit!r}: choose one of {', '.join(TIME_UNITS)}")
    kind = format_of(path)
    if kind == "jsonl":
        return read_json_lines(path, layout, skips)
    if kind == "parquet":
        return read_parquet(path, layout, skips)
    return read_delimited(path, layout, skips, _delimiter(path))


def read_items(
    path: Path,
    wanted: set[str],
    skips: Skips,
    *,
    item: str | None = None,
    texts: Sequence[str] = (),
) -> Catalogue:
    """Texts of the ``wanted`` items in a table of items.

    Args:
        item: the column of the ids.
        texts: the columns that make up the text, in this order; the first is the title.
    """
    names = columns_of(path)
    id_column = choose("item", item, names, path.name, "--item-id-column")
    if texts:
        columns = [choose("text", column, names, path.name) for column in texts]
    else:
        usual = [*ALIASES["title"], *ALIASES["text"]]
        columns = [name for alias in usual for name in names if name.lower() == alias and name != id_column]
    catalogue = Catalogue(wanted, skips)
    for record in _records(path, [id_column, *columns], skips):
        title, *others = [record.get(column) for column in columns] or [None]
        rest = [text for value in others for text in strings(value)]
        catalogue.add(Item(joined(record.get(id_column)), joined(title), categories=rest))
    return catalogue


def _records(path: Path, columns: list[str], skips: Skips) -> Iterator[dict]:
    kind = format_of(path)
    if kind == "jsonl":
        yield from objects(path, skips)
        return
    if kind == "parquet":
        stream = parquet_table(path, skips, columns)
    else:
        stream = delimited_table(path, _delimiter(path), skips)
    for _, rows in stream:
        yield from rows.select(list(dict.fromkeys(columns))).iter_rows(named=True)
