"""How the atomic files of a dataset are written: encoding, separator and columns, according to the configuration."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec_common.files import what_it_is

TYPES = ("token", "token_seq", "float", "float_seq")
# other separators, which are only named in advice
_SEPARATORS = {",": "commas", ";": "semicolons", "|": "vertical bars", "\t": "tabs", " ": "blanks"}


@dataclass(frozen=True)
class Layout:
    """What the configuration says about atomic files.

    Attributes:
        separator: the text between columns (``field_separator``).
        encoding: the encoding of the text (``encoding``); UTF-8 is read with or without a byte order mark.
        user, item: names of the id columns (``USER_ID_FIELD``, ``ITEM_ID_FIELD``).
        rating, time: names of these columns, None if there are none (``RATING_FIELD``, ``TIME_FIELD``).
    """

    separator: str = "\t"
    encoding: str = "utf-8-sig"
    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = "rating"
    time: str | None = "timestamp"

    @classmethod
    def of(cls, config) -> Layout:
        """The layout that a configuration (RecBole's ``Config`` or a mapping) describes; unset keys mean the defaults.

        Raises:
            UserError: one of the keys has an invalid value.
        """
        get = config.get if isinstance(config, Mapping) else config.__getitem__
        keys = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "rating": "RATING_FIELD", "time": "TIME_FIELD"}
        values = {name: _text(key, get(key)) for name, key in {**keys, "separator": "field_separator"}.items()}
        given = {name: value for name, value in values.items() if value is not None}
        if "separator" in given:
            # a shell passes on \t as two characters
            given["separator"] = given["separator"].replace("\\t", "\t")
        return cls(encoding=text_encoding(get("encoding")), **given)


def _text(key: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UserError(f"{key} must be text, got {value!r}")
    return value


def text_encoding(name: str | None) -> str:
    """The codec that reads text of the encoding ``name``; UTF-8, the default, with or without a byte order mark.

    Raises:
        UserError: Python has no such text encoding.
    """
    if name is None:
        return "utf-8-sig"
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refuses codecs that do not turn text into bytes
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"encoding {name!r} is unknown: use a name that Python knows, such as utf-8, latin-1 or utf-16"
        ) from None
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def first_lines(path: Path, layout: Layout) -> tuple[str, str]:
    """The first two lines of an atomic file without their ends.

    Raises:
        UserError: there is no such file, or it is not text in this encoding.
    """
    try:
        with open(path, encoding=layout.encoding) as stream:
            return stream.readline().rstrip("\n"), stream.readline().rstrip("\n")
    except UnicodeError:
        raise undecodable(path, layout.encoding) from None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}{_because(path)}") from None


def _because(path: Path) -> str:
    what = what_it_is(path)
    return f": it is {what}" if what else ""


def typed_columns(path: Path, header: str, layout: Layout) -> list[str]:
    """Column names of an atomic file, whose first line is ``header``; RecBole needs ``name:type`` for each.

    Raises:
        UserError: a column has no type or occurs twice; the message says what the file is, if that is known.
    """
    fields = header.split(layout.separator)
    for field in fields:
        if field.partition(":")[2] not in TYPES:
            raise UserError(
                _another_kind(path, header, layout)
                or f"{path}: column '{field[:80]}' of the first line has no type: write it as name:token, "
                "name:token_seq, name:float or name:float_seq"
            )
    names = [field.partition(":")[0] for field in fields]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"{path} has the column '{repeated[0]}' twice: give each column a different name")
    return names


def interaction_columns(path: Path, layout: Layout) -> list[str]:
    """Column names of an interaction file that has both ids and at least one row.

    Raises:
        UserError: it does not have them, or cannot be read.
    """
    header, first = first_lines(path, layout)
    names = [field.partition(":")[0] for field in header.split(layout.separator)]
    if layout.user not in names or layout.item not in names:
        raise UserError(
            _another_kind(path, header, layout)
            or f"{path} has no columns {layout.user} and {layout.item}: its first line is '{header[:80]}'"
        )
    columns = typed_columns(path, header, layout)
    if not first.strip():
        raise UserError(f"{path} has no interactions: an empty split cannot be trained on or evaluated")
    return columns


def _another_kind(path: Path, header: str, layout: Layout) -> str | None:
    """What a file with an unexpected first line seems to be, as a sentence; None if that is unknown."""
    what = what_it_is(path)
    if what:
        return f"{path} is {what}"
    if "x_label" in header:
        return (
            f"{path} is in MMRec's layout (column x_label): convert its folder with `python -m dataset_prep mmrec`, "
            "which keeps the split"
        )
    for separator, name in _SEPARATORS.items():
        fields = header.split(separator)
        if separator != layout.separator and len(fields) > 1 and all(f.partition(":")[2] in TYPES for f in fields):
            shown = "\\t" if separator == "\t" else separator
            return f"the columns of {path} are separated by {name}: use tabs, or set field_separator: '{shown}'"
    return None


def undecodable(path: Path, encoding: str) -> UserError:
    """The error for a file that is not text in ``encoding``; it names the first such line if that is quickly found."""
    what = what_it_is(path)
    if what:
        also = ", or set encoding: utf-16" if what.startswith("text in UTF-16") else ""
        return UserError(f"{path} is {what}{also}")
    with open(path, "rb") as stream:
        if b"\0" in stream.read(4096):
            return UserError(f"{path} is a binary file, not text: atomic files are tables in UTF-8")
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    label = "UTF-8" if plain == "utf-8" else plain
    return UserError(
        f"{path} is not {label} text{_first_fault(path, plain)}: convert it to UTF-8, or set its encoding, e.g. "
        "encoding: latin-1"
    )


def _first_fault(path: Path, encoding: str) -> str:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return f" (line {number} holds the byte 0x{line[error.start]:02x})"
            except UnicodeError:
                break
    return ""
