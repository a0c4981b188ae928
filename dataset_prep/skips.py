"""Count what is left out of a file, and stop when it is too much."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from recbole_mambarec_common.errors import UserError

from .lines import NOT_UTF8, not_utf8

#: Largest share of faulty lines that is skipped by default.
MAX_BAD = 0.01


class Skips:
    """What was wrong with the lines of one file, by reason.

    A file that is given with its path can be looked at again when it turns out to be in another encoding.

    ``lines`` is the number of lines looked at (blank ones do not count), ``counts`` reason -> number of
    lines, ``notes`` sentences for the user on how the file was read.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file).name
        self.path = Path(file) if isinstance(file, Path) else None
        self.lines = 0
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def add(self, reason: str, n: int = 1) -> None:
        if n:
            self.counts[reason] += n

    def check(self, max_bad: float) -> None:
        """Raises:
        UserError: nothing could be read at all, or more than ``max_bad`` of the lines are faulty.
        """
        if not self.lines:
            raise UserError(f"{self.file} is empty")
        bad = self.counts.total()
        if bad > max_bad * self.lines:
            if self.path is not None and NOT_UTF8 in self.counts and (fault := not_utf8(self.path)):
                raise fault
            reasons = ", ".join(f"{reason}: {n:,}" for reason, n in self.counts.most_common())
            raise UserError(
                f"{self.file}: {bad:,} of {self.lines:,} lines cannot be used ({reasons}), more than "
                f"the limit of {max_bad:.2%}, which --max-bad changes"
            )

    def as_dict(self) -> dict:
        """For a stage file: :meth:`from_dict` gives it back."""
        counts = dict(sorted(self.counts.items()))
        return {"file": self.file, "lines": self.lines, "counts": counts, "notes": self.notes}

    @classmethod
    def from_dict(cls, value: dict) -> Skips:
        skips = cls(value["file"])
        skips.lines = value["lines"]
        skips.counts.update(value["counts"])
        skips.notes = value["notes"]
        return skips
