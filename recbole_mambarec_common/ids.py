"""Ids of users or items that two files write differently: ``26`` and ``26.0``, ``B01`` and ``b01``."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection

#: Two files that have a smaller share of their ids in common do not belong together.
LEAST_SHARE = 0.01
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII)
_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"


def spelling(token: object) -> str:
    """An id reduced to what matters: no blanks, quotation marks, case, leading zeros, or ``.0`` of a number."""
    text = unicodedata.normalize("NFKC", str(token)).strip("\ufeff \t\r\n").strip(_QUOTES).strip().casefold()
    if _NUMBER.fullmatch(text):
        number = float(text)
        # beyond 2^53, a float stands for several whole numbers
        if math.isfinite(number) and number.is_integer() and abs(number) < 2**53:
            return str(int(number))
    return (text.lstrip("0") or "0") if text.isdecimal() else text


def respelled(used: Collection, listed: Collection) -> tuple | None:
    """(an id of ``used``, the same id as ``listed`` spells it), if most unlisted ids differ only in spelling.

    None if that holds for under half of them: a few ids that differ only in case may well be different things.
    """
    spellings = {spelling(token): token for token in listed}
    unknown = [token for token in used if token not in listed]
    pairs = [(token, spellings[spelling(token)]) for token in unknown if spelling(token) in spellings]
    return pairs[0] if pairs and 2 * len(pairs) >= len(unknown) else None


def mismatch(used: Collection, listed: Collection, kind: str, using: str, listing: str) -> str | None:
    """How the ids of two files differ, as a sentence; None if they fit each other.

    Args:
        used: the distinct ids of one file, all of which the other should list.
        listed: the set of ids of the other file.
        kind: ``item`` or ``user``.
        using, listing: names of the two files.
    """
    unknown = [token for token in used if token not in listed]
    pair = respelled(used, listed)
    if pair is not None:
        here, there = map(_quoted, pair)
        return (
            f"{len(unknown)} of the {len(used)} {kind} ids of {using} are not in {listing}, which writes the same ids "
            f"differently, {there} for {here}: write them alike in both"
        )
    if len(used) - len(unknown) < LEAST_SHARE * len(used):
        there = f"{_quoted(next(iter(listed)))} there" if listed else "no id there"
        return (
            f"only {len(used) - len(unknown)} of the {len(used)} {kind} ids of {using} are in {listing}, e.g. "
            f"{_quoted(unknown[0])} here, {there}: take both from the same dataset"
        )
    return None


def _quoted(token: object) -> str:
    # repr shows blanks and invisible characters
    return repr(str(token))
