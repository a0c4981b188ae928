"""The commands and Python blocks of a Markdown page.

A fenced block of the language ``sh`` or ``python`` is run. A comment in the line before it says why one is not::

    <!-- not run: it needs two machines -->
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        line: where it begins, counted from 1.
        reason: why it is not run, or "".
    """

    line: int
    language: str
    text: str
    reason: str

    def commands(self) -> list[list[str]]:
        """The words of each command of a block of the shell, continued lines joined, comments left out."""
        joined = self.text.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start()) + 1, found["language"], found["text"], found["reason"] or "")
        for found in _FENCE.finditer(text)
    ]
