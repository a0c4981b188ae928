"""Count the lines of a file that are left out, and refuse the file when there are too many."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from recbole_mambarec_common.errors import UserError

from .lines import NOT_UTF8, not_utf8


class Skips:
    """What was wrong with the lines of one file, by reason.

    Attributes:
        file: the name of the file.
        path: its path, if known, from which it is read again to report a wrong encoding.
        lines: how many lines were read, blank ones excepted.
        counts: reason -> number of lines that were left out.
        notes: sentences for the user about how the file was read.
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
        """Refuse a file that is mostly unusable.

        Raises:
            UserError: it has no line, or more than the share ``max_bad`` of its lines was left out.
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

    def dropped(self) -> dict[str, int]:
        """``<file>: <reason>`` -> number of lines, for the card."""
        return {f"{self.file}: {reason}": n for reason, n in sorted(self.counts.items())}

    def as_dict(self) -> dict:
        """Plain values to be saved; :meth:`from_dict` reads them back."""
        counts = dict(sorted(self.counts.items()))
        return {"file": self.file, "lines": self.lines, "counts": counts, "notes": self.notes}

    @classmethod
    def from_dict(cls, value: dict) -> Skips:
        skips = cls(value["file"])
        skips.lines = value["lines"]
        skips.counts.update(value["counts"])
        skips.notes = value["notes"]
        return skips
