"""Ranked lists as files: CSV, lines of JSON, or Parquet, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_file
from recbole_mambarec_serving.bundle import EXTRA
from recbole_mambarec_serving.catalogue import Catalogue
from recbole_mambarec_serving.types import Ranked

ENDINGS = (".parquet", ".csv", ".jsonl")


class Names:
    """Names of the columns.

    Attributes:
        of, item: the column of whoever has the list, and that of the items in it.
    """

    def __init__(self, of: str, item: str) -> None:
        self.of, self.item = of, item


RECOMMENDATIONS = Names("user_id", "item_id")
SIMILAR = Names("item_id", "similar_item_id")


class _Writer(Protocol):
    def write(self, ranked: Ranked) -> None: ...


def check_ending(path: Path) -> None:
    """Refuse a name from which no format follows.

    Raises:
        UserError: it ends in none of :data:`ENDINGS`.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path} ends in none of {', '.join(ENDINGS)}, which says how it is written: give it an ending")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")


def write_ranked(path: Path, blocks: Iterable[Ranked], catalogue: Catalogue, names: Names = RECOMMENDATIONS) -> int:
    """Write lists block by block, so that memory does not grow with their number.

    CSV and Parquet have a row per item of a list: who has it, ``rank`` from 1, the item, ``score`` and, if the
    catalogue has titles, ``title``. JSON lines have a line per list.

    Args:
        path: the file, which is replaced when all is written; its ending decides on the format.

    Returns:
        The number of lists.

    Raises:
        UserError: the ending is unknown, or a package is missing.
    """
    check_ending(path)
    kind = _Lines if path.suffix.lower() == ".jsonl" else _Tables
    count = 0
    with atomic_file(path) as temporary, kind.opened(temporary, path.suffix.lower(), catalogue, names) as writer:
        for ranked in blocks:
            writer.write(ranked)
            count += len(ranked.users)
    return count


class _Lines:
    """A line of JSON per list."""

    def __init__(self, stream: Any, catalogue: Catalogue, names: Names) -> None:
        self._stream, self._catalogue, self._names = stream, catalogue, names
        self._tokens = catalogue.ids.tokens.tolist()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, ending: str, catalogue: Catalogue, names: Names) -> Iterator[_Writer]:
        with open(path, "w", encoding="utf-8", newline="\n") as stream:
            yield cls(stream, catalogue, names)

    def write(self, ranked: Ranked) -> None:
        has_titles, title = self._catalogue.titles is not None, self._catalogue.title
        for owner, items, scores in zip(ranked.users.tolist(), ranked.items.tolist(), ranked.scores.tolist()):
            listed = []
            for item, score in zip(items, scores):
                if item >= 0:
                    entry: dict[str, Any] = {self._names.item: self._tokens[item], "score": score}
                    listed.append(entry | {"title": title(item)} if has_titles else entry)
            self._stream.write(json.dumps({self._names.of: owner, "items": listed}, ensure_ascii=False) + "\n")


class _Tables:
    """A row per item of a list, as Parquet or CSV."""

    def __init__(self, write: Any, schema: Any, catalogue: Catalogue) -> None:
        import pyarrow as pa

        self._pa, self._write, self._schema = pa, write, schema
        self._tokens = pa.array(catalogue.ids.tokens.tolist(), type=pa.string())
        titles = catalogue.titles
        self._titles = None if titles is None else pa.array(titles, type=pa.string())

    @classmethod
    @contextmanager
    def opened(cls, path: Path, ending: str, catalogue: Catalogue, names: Names) -> Iterator[_Writer]:
        pa = need("pyarrow", EXTRA, "or write .jsonl")
        text = pa.string()
        fields = [(names.of, text), ("rank", pa.int32()), (names.item, text), ("score", pa.float32())]
        schema = pa.schema([*fields, *([("title", text)] if catalogue.titles is not None else [])])
        if ending == ".csv":
            writer = need("pyarrow.csv", EXTRA).CSVWriter(path, schema)
        else:
            writer = need("pyarrow.parquet", EXTRA).ParquetWriter(path, schema)
        with writer:
            yield cls(writer.write_table, schema, catalogue)

    def write(self, ranked: Ranked) -> None:
        pa = self._pa
        rows, places = np.nonzero(ranked.items >= 0)
        items = pa.array(ranked.items[rows, places])
        columns = [
            pa.array(ranked.users.tolist(), type=pa.string()).take(pa.array(rows)),
            pa.array(places + 1, type=pa.int32()),
            self._tokens.take(items),
            pa.array(ranked.scores[rows, places].astype(np.float32)),
        ]
        if self._titles is not None:
            columns.append(self._titles.take(items))
        self._write(pa.table(columns, schema=self._schema))


def read_ids(path: Path, column: str) -> list[str]:
    """Ids that a file names: one per line, a column of a CSV file, or of a Parquet file.

    Args:
        column: ``user_id`` or ``item_id``; as the first line of a text file, it is its heading.

    Raises:
        UserError: the file cannot be read, has no such column or names nobody.
    """
    if path.suffix.lower() == ".parquet":
        ids = _parquet_column(path, column)
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"there is no file {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as text ({type(error).__name__}): write one id per line") from None
        ids = _text_column(path, text.splitlines(), column)
    if not ids:
        raise UserError(f"{path} names no {column.removesuffix('_id')}: write one id per line")
    return ids


def _parquet_column(path: Path, column: str) -> list[str]:
    pq = need("pyarrow.parquet", EXTRA, "or write one id per line")
    try:
        names = pq.read_schema(path).names
        values = pq.read_table(path, columns=[column])[column].to_pylist() if column in names else None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except Exception as error:  # pyarrow has a class for each fault of a file
        raise UserError(f"{path} is not a readable Parquet file ({type(error).__name__})") from None
    if values is None:
        raise UserError(f"{path} has no column {column}: it has {', '.join(names) or 'none'}")
    return [str(value) for value in values if value is not None]


def _text_column(path: Path, lines: list[str], column: str) -> list[str]:
    import csv

    rows = [row for row in csv.reader(lines, delimiter="\t" if "\t" in (lines or [""])[0] else ",") if row]
    heading = [cell.strip().partition(":")[0] for cell in rows[0]] if rows else []
    place = heading.index(column) if column in heading else 0
    if rows and column not in heading and len(heading) > 1:
        raise UserError(f"{path} has several columns and no heading {column}: name it in the first line")
    rows = rows[1:] if column in heading else rows
    return [row[place].strip() for row in rows if len(row) > place and row[place].strip()]
