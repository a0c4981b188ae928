"""Amazon's reviews and metadata: tell the version apart, then read with the module of that version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from recbole_mambarec_common.errors import UserError

from ..lines import BadLine, blocks, objects, parse_object
from ..skips import Skips
from . import amazon2014, amazon2018, amazon2023
from .batches import Layout, pl, read_delimited, read_json_lines
from .items import Catalogue

VERSIONS: dict[str, ModuleType] = {module.VERSION: module for module in (amazon2014, amazon2018, amazon2023)}

#: Lines at the start of a file that tell what it is.
_FIRST = 20


def recognise(reviews: Path, metadata: Path | None = None) -> ModuleType:
    """The module of the version of these files, told by their first records.

    Reviews of 2014 and 2018 may look the same, and so do ratings tables; then the metadata decides. Without
    metadata it does not matter, and 2014 is taken, which reads all that 2018 does.

    Raises:
        UserError: a file is of no known version, or they are of different ones.
    """
    possible = _versions_of_reviews(reviews)
    if not possible:
        raise UserError(f"{reviews.name} is not a file of Amazon reviews of {_known()}; --version forces one")
    if metadata is not None:
        records = _first_records(metadata)
        told = {v for v, module in VERSIONS.items() if any(map(module.is_metadata, records))}
        if not told:
            raise UserError(f"{metadata.name} is not a file of Amazon metadata of {_known()}; --version forces one")
        if not possible & told:
            raise UserError(
                f"{reviews.name} looks like {' or '.join(sorted(possible))} and {metadata.name} like "
                f"{' or '.join(sorted(told))}; files of one version fit together, --version forces one"
            )
        possible &= told
    return VERSIONS[min(possible)]


def recognise_metadata(metadata: Path) -> ModuleType:
    """The module of the version of a metadata file alone.

    Raises:
        UserError: it is of no known version.
    """
    records = _first_records(metadata)
    told = [v for v, module in VERSIONS.items() if any(map(module.is_metadata, records))]
    if not told:
        raise UserError(f"{metadata.name} is not a file of Amazon metadata of {_known()}; --version forces one")
    return VERSIONS[told[0]]


def _known() -> str:
    return ", ".join(VERSIONS)


def _versions_of_reviews(path: Path) -> set[str]:
    records = _first_records(path)
    told = {v for v, module in VERSIONS.items() if any(map(module.is_review, records))}
    if told:
        return told
    if any(set(amazon2014.LAYOUT.columns().values()) <= set(record) for record in records):
        return {"2014", "2018"}
    if cells := _first_cells(path):
        return {"2023"} if "parent_asin" in cells[0] else {"2014", "2018"}
    return set()


def _first_lines(path: Path) -> list[bytes]:
    stream = blocks(path, size=1 << 16)
    try:
        return [line for line in next(stream, b"").split(b"\n") if line.strip()][:_FIRST]
    finally:
        stream.close()


def _first_records(path: Path) -> list[dict]:
    records = []
    for line in _first_lines(path):
        try:
            records.append(parse_object(line, literals=True))
        except BadLine:
            continue
    return records


def _first_cells(path: Path) -> list[list[str]]:
    """The first lines of a ratings table, four or more cells with a comma between; [] when it is none."""
    cells = [line.decode("utf-8", "replace").rstrip("\r").split(",") for line in _first_lines(path)]
    same = bool(cells) and len(cells[0]) >= 4 and all(len(row) == len(cells[0]) for row in cells)
    same = same and all(cell.strip() for cell in cells[0][:4])
    return cells if same and not cells[0][0].startswith("{") else []


def read_reviews(path: Path, module: ModuleType, skips: Skips) -> Iterator[pl.DataFrame]:
    """Screened batches (user, item, rating, timestamp) of a file of reviews or a ratings table."""
    cells = _first_cells(path)
    if not cells:
        return read_json_lines(path, module.LAYOUT, skips, module.LITERALS)
    header = None if set(module.LAYOUT.columns().values()) <= set(cells[0]) else _ratings_header(cells, module)
    return read_delimited(path, module.LAYOUT, skips, ",", header)


def _ratings_header(cells: list[list[str]], module: ModuleType) -> list[str]:
    """Names for the columns of a table without header: an item's id has 10 characters, a user's has more."""
    layout: Layout = module.LAYOUT
    user_first = [layout.user, layout.item, layout.rating, layout.timestamp]
    ten = [all(len(row[column].strip()) == 10 for row in cells) for column in (0, 1)]
    if ten[0] != ten[1]:
        first = [layout.item, layout.user] if ten[0] else [layout.user, layout.item]
        return [*first, *user_first[2:]]
    return list(module.RATINGS_HEADER or user_first)


def read_metadata(path: Path, module: ModuleType, wanted: set[str], skips: Skips) -> Catalogue:
    """The metadata of the ``wanted`` items; lines without object or id are counted in ``skips``."""
    catalogue = Catalogue(wanted, skips)
    for record in objects(path, skips, module.LITERALS):
        catalogue.add(module.item(record))
    return catalogue
