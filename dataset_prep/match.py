"""Do the ids of a source name the items of a dataset, and if not, what nearly does?

A table of items, a folder of images or a file of features that names (almost) none of the items is the wrong one, or
writes their ids in another way. Preparing on without it would give a dataset of ids alone that nobody asked for.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.ids import LEAST_SHARE, respelled, spelling

#: Ids of a source that are kept to look for near misses among them.
_KEPT = 50_000
#: Whole numbers beyond are no longer told apart by a float64.
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
    """The ids of a source as they pass by: how they are written, and some of them."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.kinds: Counter[str] = Counter()
        self.some: dict[str, None] = {}
        for token in ids:
            self.add(token)

    def add(self, token: str) -> None:
        self.kinds[_kind(token)] += 1
        if len(self.some) < _KEPT:
            self.some[token] = None

    def spelling(self) -> str | None:
        """``integer``, or the decimals that every id has; None where ids are written in several ways or otherwise."""
        return next(iter(self.kinds)) or None if len(self.kinds) == 1 else None


def enough(n_matched: int, n_items: int) -> bool:
    """Whether a source that names ``n_matched`` of ``n_items`` items can be the right one."""
    return n_matched > 0 and n_matched >= LEAST_SHARE * n_items


def other_spelling(items: Sequence[str], seen: Seen) -> tuple[Callable[[str], str], str] | None:
    """How the source writes the id of an item, where the one side has whole numbers and the other the same as floats.

    ``26.0`` is ``26``: programs turn a column of whole numbers into floats as soon as one cell of it is empty. It is
    taken so only where it cannot mean anything else: every id of the one side is a whole number without leading
    zeros, every id of the other one with the same decimals (``.0``), and none is too large for a float.

    Returns:
        (the source's id of an item's id, a sentence for the user), or None where it is not as simple as that.
    """
    ours, theirs = Seen(items).spelling(), seen.spelling()
    if ours == "integer" and theirs not in ("integer", None):
        return (lambda token: token + theirs), _said(items[0], items[0] + theirs)
    if theirs == "integer" and ours not in ("integer", None):
        cut = len(ours)
        return (lambda token: token[:-cut]), _said(items[0], items[0][:-cut])
    return None


def _said(ours: str, theirs: str) -> str:
    return f"'{theirs}' there is taken for item '{ours}': all ids of one side are whole numbers, of the other floats"


def respelled_items(items: Sequence[str], known: Collection[str], names: Collection[str]) -> str | None:
    """A sentence for the user where most items that a source lacks stand there under another spelling.

    Args:
        known: the items that it names.
        names: its ids, or some of them.
    """
    missing = [item for item in items if item not in known]
    pair = respelled(missing, names)
    if pair is None:
        return None
    return f"{len(missing):,} items are not named there, but {pair[0]!r} may be what it calls {pair[1]!r}"


def no_match(items: Sequence[str], seen: Seen, n_matched: int, source: str, how: str = "") -> UserError:
    """The error for a source that names too few items; it shows ids of both sides and the likely reason.

    Args:
        items: the ids of the dataset.
        n_matched: how many of them the source names.
        source: name of the file or folder.
        how: what to do where no id nearly matches.
    """
    named = "none" if not n_matched else f"{n_matched:,} of {len(items):,}, under 1 %,"
    start = f"{source} names {named} of the dataset's items (such as {_show(items)})"
    if not seen.some:
        return UserError(f"{start}: it names no item at all")
    start += f": its ids are such as {_show(seen.some)}"
    near = _near_miss(items, seen)
    if near is None:
        how = how or "it seems to be of another category, version or dataset"
        return UserError(f"{start}; {how}")
    reason, ours, theirs = near
    return UserError(f"{start}; {theirs!r} and {ours!r} differ {reason}: write the ids of both in the same way")


def _show(ids: Iterable[str]) -> str:
    return ", ".join(repr(token[:40]) for token in itertools.islice(ids, 2))


_BARE = "in what stands before the number"
_REASONS: tuple[tuple[str, Callable[[str], str]], ...] = (
    (
        "in '.0', as programs write whole numbers of a column with empty cells",
        lambda t: re.sub(r"^(\d+)\.0+$", r"\1", t),
    ),
    ("in leading zeros, which programs cut off that read ids as numbers", lambda t: re.sub(r"^0+(?=.)", "", t)),
    ("in upper and lower case", str.casefold),
    ("in quotes", lambda t: t.strip("\"'`\u201c\u201d\u2018\u2019")),
    ("in blanks", lambda t: "".join(t.split())),
    ("in a folder or a file ending", lambda t: re.sub(r"\.[A-Za-z]{1,5}$", "", re.split(r"[/\\]", t)[-1])),
    (_BARE, lambda t: re.sub(r"^[A-Za-z_:#-]+(?=\d+$)", "", t)),
)


def _bare_spelling(token: str) -> str:
    return "".join(spelling(token).split())


def _near_miss(items: Sequence[str], seen: Seen) -> tuple[str, str, str] | None:
    """(reason, item, id of the source) of the difference that explains most, if it explains anything."""
    ours = list(dict.fromkeys(items))[:_KEPT]

    best = None
    for reason, change in (*_REASONS, ("in more than one way (case, blanks, quotes, zeros)", _bare_spelling)):
        changed = {change(token): token for token in reversed(seen.some)}
        pairs = [(token, changed[key]) for token in ours if (key := change(token)) in changed]
        pairs = [pair for pair in pairs if pair[0] != pair[1]]
        if reason == _BARE:  # of two prefixes each is a category of its own
            pairs = [(our, their) for our, their in pairs if our.isdecimal() != their.isdecimal()]
        if enough(len(pairs), len(ours)) and (best is None or len(pairs) > best[0]):
            best = (len(pairs), reason, *pairs[0])
    return best and best[1:]


def join(items: Sequence[str], names: Iterable[str], source: str, how: str = "") -> tuple[list[str], str | None]:
    """The id by which the source names each item: its own, or the other spelling of a whole number.

    Args:
        items: the ids of the dataset.
        names: the ids in the source.
        source, how: for the error, see :func:`no_match`.

    Returns:
        (one id per item, a sentence for the user where the spelling differs). Not every item need be in the source.

    Raises:
        UserError: the source names under 1 % of the items.
    """
    names = dict.fromkeys(names)
    n_matched = sum(item in names for item in items)
    if enough(n_matched, len(items)):
        return list(items), respelled_items(items, names, names)
    seen = Seen(names)
    if other := other_spelling(items, seen):
        spelled, said = other
        theirs = [spelled(item) for item in items]
        if enough(sum(name in names for name in theirs), len(items)):
            return theirs, said
    raise no_match(items, seen, n_matched, source, how)
