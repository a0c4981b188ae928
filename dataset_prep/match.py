"""Match the ids of a source with the items of a dataset, and explain a mismatch.

A table of items, a folder of images or a file of features that names (almost) none of the items is the wrong one, or
writes their ids differently. Going on without it would silently produce a dataset without features.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.ids import LEAST_SHARE, respelled, spelling

#: Number of a source's ids that are kept to look for near misses among them.
_KEPT = 50_000
#: A float64 cannot distinguish all whole numbers beyond this one.
_EXACT = 2**53

_INTEGER = re.compile(r"0|[1-9][0-9]*")
_FLOAT = re.compile(r"(0|[1-9][0-9]*)(\.0+)")


def _kind(token: str) -> str:
    """``integer``; the decimals (``.0``) of a whole number written as a float; or "" for everything else."""
    if _INTEGER.fullmatch(token):
        return "integer" if int(token[:20]) < _EXACT else ""
    match = _FLOAT.fullmatch(token)
    return match[2] if match and int(match[1][:20]) < _EXACT else ""


class Seen:
    """How the ids of a source are written, and the first of them, collected while the source is read."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, None] = {}
        for token in ids:
            self.add(token)

    def add(self, token: str) -> None:
        self.kinds[_kind(token)] += 1
        if len(self.examples) < _KEPT:
            self.examples[token] = None

    def spelling(self) -> str | None:
        """``integer``, or the decimals that every id has; None if ids are not numbers or not all written alike."""
        return next(iter(self.kinds)) or None if len(self.kinds) == 1 else None


def enough(n_matched: int, n_items: int) -> bool:
    """Whether a source that names ``n_matched`` of ``n_items`` items can be the right one."""
    return n_matched > 0 and n_matched >= LEAST_SHARE * n_items


def other_spelling(items: Sequence[str], seen: Seen) -> tuple[Callable[[str], str], str] | None:
    """How the source writes an item's id, if one side has whole numbers and the other the same numbers as floats.

    ``26.0`` means ``26``: programs turn a column of whole numbers into floats as soon as one cell is empty. This is
    assumed only where nothing else can be meant: all ids of one side are whole numbers without leading zeros, all ids
    of the other have the same decimals (``.0``), and none is too large for a float.

    Returns:
        (a function from an item's id to the source's, a sentence for the user), or None.
    """
    ours, theirs = Seen(items).spelling(), seen.spelling()
    if ours == "integer" and theirs not in ("integer", None):
        return (lambda token: token + theirs), _same_number(items[0], items[0] + theirs)
    if theirs == "integer" and ours not in ("integer", None):
        cut = len(ours)
        return (lambda token: token[:-cut]), _same_number(items[0], items[0][:-cut])
    return None


def _same_number(ours: str, theirs: str) -> str:
    return f"'{theirs}' is read as item '{ours}': one side writes all ids as whole numbers, the other as floats"


def respelled_items(items: Sequence[str], matched: Collection[str], names: Collection[str]) -> str | None:
    """A sentence for the user if the source seems to have most of its missing items under a different spelling.

    Args:
        items: the ids of the dataset.
        matched: those that the source names.
        names: the ids in the source, or some of them.
    """
    missing = [item for item in items if item not in matched]
    pair = respelled(missing, names)
    if pair is None:
        return None
    return f"{len(missing):,} items are not in it, but {pair[1]!r} there may be the item {pair[0]!r}"


def no_match(items: Sequence[str], seen: Seen, n_matched: int, source: str, advice: str = "") -> UserError:
    """The error for a source that names too few items; it shows ids of both sides and the likely reason.

    Args:
        items: the ids of the dataset.
        seen: the ids in the source.
        n_matched: the number of items that the source names.
        source: the name of the file or folder.
        advice: what to do if no id nearly matches.
    """
    named = "none" if not n_matched else f"{n_matched:,} of {len(items):,}, under 1 %,"
    start = f"{source} names {named} of the dataset's items (such as {_show(items)})"
    if not seen.examples:
        return UserError(f"{start}: it has no ids at all")
    start += f": its ids look like {_show(seen.examples)}"
    near = _near_miss(items, seen)
    if near is None:
        advice = advice or "it seems to belong to another category, version or dataset"
        return UserError(f"{start}; {advice}")
    reason, ours, theirs = near
    return UserError(f"{start}; {theirs!r} and {ours!r} differ {reason}: write the ids of both in the same way")


def _show(ids: Iterable[str]) -> str:
    return ", ".join(repr(token[:40]) for token in itertools.islice(ids, 2))


_PREFIX = "in a prefix before the number"
_REASONS: tuple[tuple[str, Callable[[str], str]], ...] = (
    (
        "in '.0', which programs append to whole numbers in a column with empty cells",
        lambda t: re.sub(r"^(\d+)\.0+$", r"\1", t),
    ),
    ("in leading zeros, which are lost when ids are read as numbers", lambda t: re.sub(r"^0+(?=.)", "", t)),
    ("in upper and lower case", str.casefold),
    ("in quotes", lambda t: t.strip("\"'`\u201c\u201d\u2018\u2019")),
    ("in blanks", lambda t: "".join(t.split())),
    ("in a folder or a file ending", lambda t: re.sub(r"\.[A-Za-z]{1,5}$", "", re.split(r"[/\\]", t)[-1])),
    (_PREFIX, lambda t: re.sub(r"^[A-Za-z_:#-]+(?=\d+$)", "", t)),
)


def _spelling_without_blanks(token: str) -> str:
    return "".join(spelling(token).split())


def _near_miss(items: Sequence[str], seen: Seen) -> tuple[str, str, str] | None:
    """(reason, an item, its id in the source) for the difference that explains most mismatches; None if none does."""
    tokens = list(dict.fromkeys(items))[:_KEPT]
    best = None
    for reason, change in (*_REASONS, ("in more than one way (case, blanks, quotes, zeros)", _spelling_without_blanks)):
        changed = {change(token): token for token in reversed(seen.examples)}
        pairs = [(token, changed[key]) for token in tokens if (key := change(token)) in changed]
        pairs = [pair for pair in pairs if pair[0] != pair[1]]
        if reason == _PREFIX:  # two different prefixes are two categories
            pairs = [(our, their) for our, their in pairs if our.isdecimal() != their.isdecimal()]
        if enough(len(pairs), len(tokens)) and (best is None or len(pairs) > best[0]):
            best = (len(pairs), reason, *pairs[0])
    return best and best[1:]


def join(items: Sequence[str], names: Iterable[str], source: str, advice: str = "") -> tuple[list[str], str | None]:
    """The id under which the source has each item: the same one, or the other spelling of a whole number.

    Args:
        items: the ids of the dataset.
        names: the ids in the source.
        source, advice: for the error, see :func:`no_match`.

    Returns:
        (one id per item, whether or not it is in the source; a sentence for the user if the spelling differs).

    Raises:
        UserError: the source names under 1 % of the items.
    """
    names = dict.fromkeys(names)
    n_matched = sum(item in names for item in items)
    if enough(n_matched, len(items)):
        return list(items), respelled_items(items, names, names)
    seen = Seen(names)
    if other := other_spelling(items, seen):
        spelled, note = other
        spelled_names = [spelled(item) for item in items]
        if enough(sum(name in names for name in spelled_names), len(items)):
            return spelled_names, note
    raise no_match(items, seen, n_matched, source, advice)
