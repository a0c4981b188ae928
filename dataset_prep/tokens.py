"""Ids and texts that survive a tab-separated file.

RecBole reads atomic files with ``pandas.read_csv``: tabs and line ends separate fields, a double quote at the start of
a field swallows what follows, and words such as ``NA`` or ``null`` become missing values. Ids that would be misread are
refused; texts are cleaned.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from pathlib import Path

from recbole_mambarec_common.errors import UserError

# what pandas.read_csv reads as a missing value
_READ_AS_MISSING = re.compile(r"#N/A( N/A)?|#NA|-?1\.#(IND|QNAN)|-?(NaN|nan)|<NA>|N/A|NA|NULL|None|n/a|null")
_BAD_IN_ID = re.compile('[\x00-\x1f\x7f"]')
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

#: Length of the longest id that is accepted.
MAX_ID_LENGTH = 256


def id_fault(token: object) -> str | None:
    """The reason, as it is counted, why ``token`` cannot be an id; None if it can."""
    if not isinstance(token, str) or not token or _READ_AS_MISSING.fullmatch(token) or token.isspace():
        return "no id"
    if _BAD_IN_ID.search(token) or token != token.strip():
        return "id with a tab, a line end, a quote or blanks around it"
    if len(token) > MAX_ID_LENGTH:
        return f"id longer than {MAX_ID_LENGTH} characters"
    if not token.isascii() and not token.isprintable():
        return "id with characters that cannot be written"  # half a surrogate pair, invisible characters
    return None


def clean_text(text: str) -> str:
    """``text`` in one line: control characters and runs of blanks become a blank, double quotes become single ones."""
    if not text.isascii():
        # unpaired surrogates (from \\ud800 escapes in JSON) cannot be written as UTF-8
        text = text.encode("utf-8", "replace").decode("utf-8")
        text = unicodedata.normalize("NFC", text)
    text = "".join(c if c.isprintable() else " " for c in text) if not text.isprintable() else text
    return " ".join(text.replace('"', "'").split())


def check_name(name: str) -> str:
    """``name``, if it can name a dataset, which is a folder and a part of file names.

    Raises:
        UserError: it has other characters than letters, digits, ``.``, ``_`` and ``-``, or begins with a dot.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"the name {name!r} cannot be used: choose letters, digits, '_', '-' and, not as the first, '.'"
        )
    return name


def check_modality_name(name: str) -> str:
    """``name``, if it can name a modality: as :func:`check_name`, but without dots, which divide file names."""
    if "." in name or not _NAME.fullmatch(name):
        raise UserError(f"the modality name {name!r} cannot be used: choose letters, digits, '_' and '-'")
    return name


def without_folders(argv: list[str]) -> str:
    """The command line for the card: of each path only its last part, and not where the result was written.

    A card must be the same on every machine, so no folder of this one may appear in it.
    """
    words, skip = [], False
    for word in argv:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if skip or name in _RESULT_PATHS or word in _RESULT_PATHS:
            skip = not skip and not equals
            continue
        kind, colon, rest = value.partition(":")
        cut = f"{kind}:{_last_part(rest)}" if colon and kind in _ENCODER_KINDS else _last_part(value)
        words.append(f"{name}{equals}{cut}")
    return shlex.join(["python", "-m", "dataset_prep", *words])


_RESULT_PATHS = ("--out", "--plot")
_ENCODER_KINDS = ("sentence-transformers", "timm", "torchvision")


def _last_part(word: str) -> str:
    if word in (".", "..") or "/" in word or "\\" in word:
        return Path(word).resolve().name
    return word


def file_stem(item_id: str) -> str:
    """The file name, without its ending, of an item's image: its id, with ``%XX`` for what file names cannot hold."""
    from urllib.parse import quote

    stem = quote(item_id, safe=" ")
    return f"%2E{stem[1:]}" if stem.startswith(".") else stem
