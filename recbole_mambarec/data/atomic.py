"""How the atomic files of a dataset are written: their encoding, separator and columns, as the configuration has it."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec_common.files import what_it_is

TYPES = ("token", "token_seq", "float", "float_seq")
# what else may stand between columns; only named in advice
_SEPARATORS = {",": "commas", ";": "semicolons", "|": "vertical bars", "\t": "tabs", " ": "blanks"}


@dataclass(frozen=True)
class Layout:
    """What the configuration says about atomic files.

    Attributes:
        separator: between columns (``field_separator``).
        encoding: of the text (``encoding``); UTF-8 is read with or without a byte order mark.
        user, item: names of the id columns (``USER_ID_FIELD``, ``ITEM_ID_FIELD``).
        rating, time: names of these columns, None where there are none (``RATING_FIELD``, ``TIME_FIELD``).
    """

    separator: str = "\t"
    encoding: str = "utf-8-sig"
    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = "rating"
    time: str | None = "timestamp"

    @classmethod
    def of(cls, config) -> Layout:
        """The layout that a configuration (RecBole's ``Config`` or a mapping) describes; its gaps mean the default.

        Raises:
            UserError: one of the keys has a value that cannot be meant.
        """
        get = config.get if isinstance(config, Mapping) else config.__getitem__
        keys = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "rating": "RATING_FIELD", "time": "TIME_FIELD"}
        values = {name: _text(key, get(key)) for name, key in {**keys, "separator": "field_separator"}.items()}
        given = {name: value for name, value in values.items() if value is not None}
        if "separator" in given:
            # a shell hands on the two characters \t as they are
            given["separator"] = given["separator"].replace("\\t", "\t")
        return cls(encoding=text_encoding(get("encoding")), **given)


def _text(key: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UserError(f"{key} must be text, got {value!r}")
    return value


def text_encoding(name: str | None) -> str:
    """The codec that reads text of the encoding ``name``; UTF-8, the default, with or without a byte order mark.

    Raises:
        UserError: Python knows no such encoding of text.
    """
    if name is None:
        return "utf-8-sig"
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refuses codecs between other things than text and bytes
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"encoding {name!r} is unknown: use a name that Python knows, such as utf-8, latin-1 or utf-16"
        ) from None
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def first_lines(path: Path, layout: Layout) -> tuple[str, str]:
    """The first two lines of an atomic file without their ends.

    Raises:
        UserError: there is no such file, or it is no text of this encoding.
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
        UserError: a column has no type or stands there twice; the message names what the file is where that is known.
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
        raise UserError(f"{path} has the column '{repeated[0]}' twice: each needs a name of its own")
    return names


def interaction_columns(path: Path, layout: Layout) -> list[str]:
    """Column names of an interaction file that has both ids and at least one row.

    Raises:
        UserError: it has not, or cannot be read.
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
    """A sentence on a file whose first line is not as expected, where it can be told what it is instead."""
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
            return f"the columns of {path} are separated by {name}: write tabs, or say field_separator: '{shown}'"
    return None


def undecodable(path: Path, encoding: str) -> UserError:
    """The sentence on a file that is no text of ``encoding``, with the first line that is not, where that is cheap."""
    what = what_it_is(path)
    if what:
        also = ", or say encoding: utf-16" if what.startswith("text in UTF-16") else ""
        return UserError(f"{path} is {what}{also}")
    with open(path, "rb") as stream:
        if b"\0" in stream.read(4096):
            return UserError(f"{path} is a binary file, not text: atomic files are tables in UTF-8")
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    label = "UTF-8" if plain == "utf-8" else plain
    return UserError(
        f"{path} is not {label} text{_first_fault(path, plain)}: convert it to UTF-8, or name its encoding, e.g. "
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
