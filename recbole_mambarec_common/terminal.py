"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column is left-aligned, the others right-aligned, with two blanks between them."""
    widths = [max(len(str(line[column])) for line in [header, *rows]) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            str(cell).ljust(width) if not column else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in [header, *rows]
    )
