"""Count what is left out of a file, and stop when it is too much."""

from __future__ import annotations

from collections import Counter

from recbole_mambarec.errors import UserError

#: Largest share of faulty lines that is skipped by default.
MAX_BAD = 0.01


class Skips:
    """What was wrong with the lines of one file, by reason.

    ``lines`` is the number of lines looked at (blank ones do not count), ``counts`` reason -> number of
    lines.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines = 0
        self.counts: Counter[str] = Counter()

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
            reasons = ", ".join(f"{reason}: {n:,}" for reason, n in self.counts.most_common())
            raise UserError(
                f"{self.file}: {bad:,} of {self.lines:,} lines cannot be used ({reasons}), more than "
                f"the limit of {max_bad:.2%}, which --max-bad changes"
            )

    def as_dict(self) -> dict:
        """For a stage file: :meth:`from_dict` gives it back."""
        return {"file": self.file, "lines": self.lines, "counts": dict(sorted(self.counts.items()))}

    @classmethod
    def from_dict(cls, value: dict) -> Skips:
        skips = cls(value["file"])
        skips.lines = value["lines"]
        skips.counts.update(value["counts"])
        return skips
