"""Ids of the same users or items that two files write differently: ``26`` and ``26.0``, ``B01`` and ``b01``."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection

#: Two files that share fewer of their ids than this were not made for each other.
LEAST_SHARE = 0.01
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII)
_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"


def spelling(token: object) -> str:
    """What stays of an id when blanks, quotation marks, case, leading zeros and a number's ``.0`` do not count."""
    text = unicodedata.normalize("NFKC", str(token)).strip("\ufeff \t\r\n").strip(_QUOTES).strip().casefold()
    if _NUMBER.fullmatch(text):
        number = float(text)
        # beyond 2^53 a float names several whole numbers
        if math.isfinite(number) and number.is_integer() and abs(number) < 2**53:
            return str(int(number))
    return (text.lstrip("0") or "0") if text.isdecimal() else text


def respelled(used: Collection, known: Collection) -> tuple | None:
    """An id of ``used`` with the one of ``known`` that is the same but for its spelling.

    None where this holds for under half of the ids that ``known`` lacks: a few that differ by case alone may well be
    different things.
    """
    spellings = {spelling(token): token for token in known}
    unknown = [token for token in used if token not in known]
    pairs = [(token, spellings[spelling(token)]) for token in unknown if spelling(token) in spellings]
    return pairs[0] if pairs and 2 * len(pairs) >= len(unknown) else None


def mismatch(used: Collection, known: Collection, kind: str, using: str, listing: str) -> str | None:
    """In which way two files name different things, as one sentence; None where they do not.

    Args:
        used: distinct ids of the file ``using``.
        known: set of the ids of the file ``listing``, where each of ``used`` should be.
        kind: ``item`` or ``user``.
    """
    unknown = [token for token in used if token not in known]
    pair = respelled(used, known)
    if pair is not None:
        here, there = map(_quoted, pair)
        return (
            f"{len(unknown)} of the {len(used)} {kind} ids of {using} are not in {listing}, which writes the same ids "
            f"differently, {there} for {here}: write them alike in both"
        )
    if len(used) - len(unknown) < LEAST_SHARE * len(used):
        there = f"{_quoted(next(iter(known)))} there" if known else "no id there"
        return (
            f"only {len(used) - len(unknown)} of the {len(used)} {kind} ids of {using} are in {listing}, e.g. "
            f"{_quoted(unknown[0])} here, {there}: take both from the same data set"
        )
    return None


def _quoted(token: object) -> str:
    # blanks and what cannot be seen are told apart
    return repr(str(token))
