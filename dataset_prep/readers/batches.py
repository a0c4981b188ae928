"""Stream interactions from large files, in batches of four columns; unusable rows are counted by reason.

polars parses a block of lines at once, about ten times as fast as Python's ``json`` parses them line by line. If it
refuses a block, for which a single faulty line is enough, the block is read again line by line to find the faulty ones.
In both cases :func:`screen` alone decides whether a row can be used.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import what_it_is

from ..lines import NOT_UTF8, BadLine, blocks, parse_object, utf8_error
from ..skips import Skips
from ..tokens import id_fault

if TYPE_CHECKING:
    import polars as pl
else:
    pl = need("polars", "prep")

#: Range of plausible timestamps in seconds since 1970: 1990-01-01 to 2100-01-01.
EARLIEST, LATEST = 631_152_000, 4_102_444_800
#: Unit of a raw timestamp -> how many of it are a second; ``iso`` means text such as 2018-06-17T02:00:00.
TIME_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "iso": None}

_ROWS = 1 << 17
# ids that need no further check; all others go through id_fault
_PLAIN_ID = r"^[A-Za-z0-9_\-]{5,256}$"


@dataclass(frozen=True)
class Layout:
    """Which column of a file holds what; ``rating`` and ``timestamp`` are None if there are none."""

    user: str
    item: str
    rating: str | None = None
    timestamp: str | None = None
    time_unit: str = "s"

    def columns(self) -> dict[str, str]:
        """Our name -> name in the file, of the columns that are there."""
        named = {"user": self.user, "item": self.item, "rating": self.rating, "timestamp": self.timestamp}
        return {column: raw for column, raw in named.items() if raw is not None}

    def dtypes(self) -> dict:
        """Our name -> polars type before screening."""
        time = pl.String if self.time_unit == "iso" else pl.Float64
        types = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "timestamp": time}
        return {column: types[column] for column in self.columns()}


def read_json_lines(path: Path, layout: Layout, skips: Skips, literals: bool = False) -> Iterator[pl.DataFrame]:
    """Usable rows of a file of JSON lines or of Python literals.

    Each batch has the columns user, item (text), rating (float32) and timestamp (float64, seconds), as far as the
    layout names them.
    """
    for block in blocks(path):
        batch = _json_block(block, layout)
        if batch is None:
            batch = _json_by_line(block, layout, skips, literals)
        else:
            skips.lines += batch.height
        yield screen(batch, layout, skips)


def _json_block(block: bytes, layout: Layout) -> pl.DataFrame | None:
    """The block parsed by polars; None if anything about it is unusual."""
    columns, dtypes = layout.columns(), layout.dtypes()
    if len(set(columns.values())) < len(columns):
        return None
    try:
        batch = pl.read_ndjson(io.BytesIO(block), schema={columns[column]: dtypes[column] for column in columns})
    except (pl.exceptions.PolarsError, OverflowError, ValueError, OSError):  # OSError: bytes that look compressed
        return None
    if batch.height != block.count(b"\n"):
        return None
    batch = batch.rename({raw: column for column, raw in columns.items()})
    texts = [column for column, dtype in dtypes.items() if dtype == pl.String]
    # true, {..} and [..] are turned into text, and half a surrogate pair into \0
    odd = pl.any_horizontal(pl.col(texts).str.contains(r"^(true|false|[\[{].*)$|\x00")).any()
    return None if batch.select(odd.fill_null(False)).item() else batch


def _json_by_line(block: bytes, layout: Layout, skips: Skips, literals: bool) -> pl.DataFrame:
    columns, dtypes = layout.columns(), layout.dtypes()
    found: dict[str, list] = {column: [] for column in columns}
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        skips.lines += 1
        try:
            record = parse_object(line, literals)
        except BadLine as fault:
            skips.add(str(fault))
            continue
        for column, raw in columns.items():
            convert = _text if dtypes[column] == pl.String else _number
            found[column].append(convert(record.get(raw)))
    return pl.DataFrame(found, schema=dtypes)


def _text(value: object) -> str | None:
    if isinstance(value, str):
        # half a surrogate pair cannot be written; its replacement is refused later, as part of an id
        return value.encode("utf-8", "replace").decode("utf-8") if not value.isascii() else value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # an integer of thousands of digits
            return None
    return None


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float, str)) else None
    except (ValueError, OverflowError):
        return None


def read_delimited(
    path: Path, layout: Layout, skips: Skips, delimiter: str, header: list[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Usable rows of a CSV or TSV file; ``header`` names the columns of a file without a header."""
    for names, rows in _delimited_rows(path, delimiter, header, skips):
        missing = [raw for raw in layout.columns().values() if raw not in names]
        if missing:
            raise UserError(f"{path.name} has no column {missing[0]} (columns: {', '.join(names)})")
        yield screen(_cast(rows, layout), layout, skips)


def _cast(rows: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    dtypes = layout.dtypes()
    return rows.select(
        pl.col(raw).cast(dtypes[column], strict=False).alias(column) for column, raw in layout.columns().items()
    )


def delimited_table(path: Path, delimiter: str, skips: Skips) -> Generator[tuple[list[str], pl.DataFrame], None, None]:
    """(column names, rows as text) of a CSV or TSV file with a header, batch by batch."""
    return _delimited_rows(path, delimiter, None, skips)


def _delimited_rows(path: Path, delimiter: str, names: list[str] | None, skips: Skips):
    stream = blocks(path)
    for block in stream:
        if names is None:
            if b'"' in block:
                break
            head, _, block = block.partition(b"\n")
            names = _header(path, [cell.strip() for cell in _decode(head).rstrip("\r").split(delimiter)])
            if not block:
                continue
        if b'"' in block:
            break
        yield names, _plain_rows(block, delimiter, names, skips)
    else:
        return
    # quotes may contain line ends, so Python's csv module, which handles them, reads the rest
    rows = _quoted_rows(itertools.chain([block], stream), delimiter, skips)
    if names is None:
        names = _header(path, [cell.strip() for cell in next(rows, [])])
    while part := list(itertools.islice(rows, _ROWS)):
        skips.lines += len(part)
        yield names, _frame(part, names, skips)


def _header(path: Path, names: list[str]) -> list[str]:
    if any("\r" in name for name in names):
        raise UserError(
            f"{path.name} ends its lines with a carriage return alone, as old Macs did: convert it with "
            f"`tr '\\r' '\\n' < {path.name}`"
        )
    # RecBole's own headers carry types (user_id:token)
    names = [name.partition(":")[0] if name.count(":") == 1 else name for name in names]
    shown = ", ".join(names)
    if not shown.isascii() and any("\udc80" <= sign <= "\udcff" for sign in shown):
        raise utf8_error(path)
    if len(set(names)) != len(names) or not any(names):
        raise UserError(f"{path.name}: the first line does not name each column once: {shown[:200]}")
    return names


def _decode(block: bytes) -> str:
    # bytes that are not UTF-8 become lone surrogates, by which _frame recognises them
    return block.decode("utf-8", "surrogateescape")


def _plain_rows(block: bytes, delimiter: str, names: list[str], skips: Skips) -> pl.DataFrame:
    n_lines = block.count(b"\n")
    try:
        rows = pl.read_csv(
            io.BytesIO(block),
            has_header=False,
            separator=delimiter,
            quote_char=None,
            schema=dict.fromkeys(names, pl.String),
        ).fill_null("")
    except (pl.exceptions.PolarsError, ValueError, OSError):  # OSError: bytes that look compressed
        rows = None
    # a line with too few cells is padded with nulls, so the number of delimiters is checked, too
    if rows is not None and rows.height == n_lines and block.count(delimiter.encode()) == n_lines * (len(names) - 1):
        skips.lines += n_lines
        return rows
    cells = [line.rstrip("\r").split(delimiter) for line in _decode(block).split("\n") if line.strip()]
    skips.lines += len(cells)
    return _frame(cells, names, skips)


def _quoted_rows(parts: Iterable[bytes], delimiter: str, skips: Skips) -> Iterator[list[str]]:
    lines = (line for part in parts for line in _decode(part).splitlines(keepends=True))
    rows = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            skips.lines += 1
            skips.add("not a row of cells")
            continue
        if row and (len(row) > 1 or row[0].strip()):
            yield row


def _frame(cells: list[list[str]], names: list[str], skips: Skips) -> pl.DataFrame:
    good = []
    for row in cells:
        if len(row) != len(names):
            skips.add("wrong number of cells")
            continue
        try:
            "".join(row).encode("utf-8")
        except UnicodeEncodeError:
            skips.add(NOT_UTF8)
            continue
        good.append(row)
    return pl.DataFrame(good, schema=dict.fromkeys(names, pl.String), orient="row")


def read_parquet(path: Path, layout: Layout, skips: Skips) -> Iterator[pl.DataFrame]:
    """Usable rows of a Parquet file."""
    for _, rows in parquet_table(path, skips, layout.columns().values()):
        here = layout
        if layout.timestamp and rows.schema[layout.timestamp].is_temporal():
            moment = pl.col(layout.timestamp).cast(pl.Datetime("us"))
            rows = rows.with_columns(moment.dt.timestamp("us") / 1e6)
            here = replace(layout, time_unit="s")
        yield screen(_cast(rows, here), here, skips)


def parquet_table(
    path: Path, skips: Skips, columns: Iterable[str] | None = None
) -> Generator[tuple[list[str], pl.DataFrame], None, None]:
    """(column names, rows) of a Parquet file, batch by batch."""
    try:
        lazy = pl.scan_parquet(path)
        names = lazy.collect_schema().names()
        for raw in columns or ():
            if raw not in names:
                raise UserError(f"{path.name} has no column {raw} (columns: {', '.join(names)})")
        wanted = list(dict.fromkeys(columns)) if columns is not None else names
        for start in itertools.count(0, _ROWS * 8):
            rows = lazy.select(wanted).slice(start, _ROWS * 8).collect()
            if not rows.height:
                return
            skips.lines += rows.height
            yield names, rows
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except pl.exceptions.PolarsError as error:
        reason, what = (str(error).splitlines() or ["unreadable"])[0], what_it_is(path)
        what = f": it is {what}" if what and "Parquet" not in what else f" ({reason[:160]})"
        raise UserError(f"{path.name} is not a whole Parquet file{what}") from None


def screen(batch: pl.DataFrame, layout: Layout, skips: Skips) -> pl.DataFrame:
    """The usable rows; the others are counted, each under the first reason that applies."""
    batch = batch.with_columns(pl.col("user", "item").str.strip_chars())
    for column in ("user", "item"):
        fine = pl.col(column).str.contains(_PLAIN_ID)
        batch = batch.with_row_index("row")
        doubtful = batch.filter(~fine.fill_null(False))
        faults = {token: id_fault(token) for token in doubtful[column].unique().to_list()}
        reasons = [faults[token] for token in doubtful[column].to_list()]
        bad = [row for row, reason in zip(doubtful["row"].to_list(), reasons) if reason]
        for reason in filter(None, reasons):
            skips.add(reason)
        if bad:
            batch = batch.filter(~pl.col("row").is_in(bad))
        batch = batch.drop("row")
    if layout.rating is not None:
        batch = _keep(batch, pl.col("rating").is_finite() & (pl.col("rating").abs() < 1e30), "no rating", skips)
        batch = batch.with_columns(pl.col("rating").cast(pl.Float32))
    if layout.timestamp is not None:
        batch = _in_seconds(batch, layout.time_unit)
        batch = _keep(batch, pl.col("timestamp").is_not_nan(), "no timestamp", skips)
        batch = _keep(batch, pl.col("timestamp").is_between(EARLIEST, LATEST), "absurd timestamp", skips)
    return batch


def _keep(batch: pl.DataFrame, fine: pl.Expr, reason: str, skips: Skips) -> pl.DataFrame:
    kept = batch.filter(fine.fill_null(False))
    skips.add(reason, batch.height - kept.height)
    return kept


def _in_seconds(batch: pl.DataFrame, unit: str) -> pl.DataFrame:
    raw = batch["timestamp"]
    if unit == "s":
        return batch
    if unit != "iso":
        # numpy divides, while polars multiplies by the reciprocal, which may change the last digit
        return batch.with_columns(pl.Series("timestamp", raw.to_numpy() / TIME_UNITS[unit]))
    # a date, or a date and a time separated by a blank or a T, with or without a zone (UTC if without)
    text = raw.str.strip_chars().str.replace("Z$", "+00:00").str.replace(" ", "T", literal=True)
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00")
    text = text.str.replace(r"^([^+]*T[^+-]*)$", "${1}+00:00")
    moment = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", time_zone="UTC", strict=False)
    return batch.with_columns(pl.Series("timestamp", moment.dt.timestamp("us").to_numpy() / 1e6))
