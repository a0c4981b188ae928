"""Amazon's reviews and metadata: recognise the version, then read with the module of that version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from recbole_mambarec_common.errors import UserError

from ..lines import BadLine, blocks, must_be_a_file, objects, parse_object
from ..skips import Skips
from . import amazon2014, amazon2018, amazon2023
from .batches import Layout, pl, read_delimited, read_json_lines
from .items import Catalogue

VERSIONS: dict[str, ModuleType] = {module.VERSION: module for module in (amazon2014, amazon2018, amazon2023)}

#: Lines at the start of a file by which its version is recognised.
_FIRST = 20


class AmazonReviews:
    """A category of Amazon Reviews 2014, 2018 or 2023; a :class:`~dataset_prep.sources.Source`.

    Args:
        reviews: JSON lines or a ratings table, plain or gzip.
        metadata: the metadata file of the same version; without it there is no text.
        version: "2014", "2018" or "2023"; None recognises it.

    Raises:
        UserError: a file is missing, or of another version than the other, or of none that is known.
    """

    def __init__(self, reviews: str | Path, metadata: str | Path | None = None, *, version: str | None = None) -> None:
        self.interactions = Path(reviews)
        self.items = None if metadata is None else Path(metadata)
        for file in (self.interactions, self.items):
            if file is not None:
                must_be_a_file(file)
        self._version = named(version) if version is not None else recognise(self.interactions, self.items)
        self.settings = ["amazon", self._version.VERSION]
        self.card = {"source_format": f"Amazon Reviews {self._version.VERSION}"}

    def read_interactions(self, skips: Skips) -> Iterator[pl.DataFrame]:
        return read_reviews(self.interactions, self._version, skips)

    def read_items(self, item_ids: set[str], skips: Skips) -> Catalogue:
        return read_metadata(self.items, self._version, item_ids, skips)


def named(version: str) -> ModuleType:
    """The module of a version that the user named.

    Raises:
        UserError: there is no such version.
    """
    if version not in VERSIONS:
        raise UserError(f"unknown version {version!r}: choose one of {', '.join(VERSIONS)}")
    return VERSIONS[version]


def recognise(reviews: Path, metadata: Path | None = None) -> ModuleType:
    """The module of the version of these files, recognised by their first records.

    Reviews and ratings tables of 2014 and 2018 may look the same; then the metadata decides. Without metadata it does
    not matter: the module of 2014 reads everything that the one of 2018 does.

    Raises:
        UserError: a file is of no known version, or the two are of different ones.
    """
    possible = _versions_of_reviews(reviews)
    if not possible:
        raise _unrecognised(reviews, "reviews")
    if metadata is not None:
        records = _first_records(metadata)
        matching = {v for v, module in VERSIONS.items() if any(map(module.is_metadata, records))}
        if not matching:
            raise _unrecognised(metadata, "metadata")
        if not possible & matching:
            raise UserError(
                f"{reviews.name} looks like {' or '.join(sorted(possible))} and {metadata.name} like "
                f"{' or '.join(sorted(matching))}: give two files of the same version, or force one with --version"
            )
        possible &= matching
    return VERSIONS[min(possible)]


def recognise_metadata(metadata: Path) -> ModuleType:
    """The module of the version of a metadata file alone.

    Raises:
        UserError: it is of no known version.
    """
    records = _first_records(metadata)
    matching = [v for v, module in VERSIONS.items() if any(map(module.is_metadata, records))]
    if not matching:
        raise _unrecognised(metadata, "metadata")
    return VERSIONS[matching[0]]


def _unrecognised(path: Path, kind: str) -> UserError:
    return UserError(
        f"{path.name} is not a file of Amazon {kind} of {', '.join(VERSIONS)}: check the file, or force a version with "
        "--version"
    )


def _versions_of_reviews(path: Path) -> set[str]:
    records = _first_records(path)
    matching = {v for v, module in VERSIONS.items() if any(map(module.is_review, records))}
    if matching:
        return matching
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
    """The cells of the first lines of a ratings table (four or more, separated by commas); [] if it is not one."""
    cells = [line.decode("utf-8", "replace").rstrip("\r").split(",") for line in _first_lines(path)]
    same = bool(cells) and len(cells[0]) >= 4 and all(len(row) == len(cells[0]) for row in cells)
    same = same and all(cell.strip() for cell in cells[0][:4])
    return cells if same and not cells[0][0].startswith("{") else []


def read_reviews(path: Path, module: ModuleType, skips: Skips) -> Iterator[pl.DataFrame]:
    """Batches of the usable interactions in a file of reviews or a ratings table."""
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
    """The metadata of the ``wanted`` items; lines that hold no object or no id are counted in ``skips``."""
    catalogue = Catalogue(wanted, skips)
    for record in objects(path, skips, module.LITERALS):
        catalogue.add(module.item(record))
    return catalogue
