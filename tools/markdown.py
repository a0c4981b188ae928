"""Tables and docstrings as Markdown, for the pages that are generated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# :class:`~package.module.Name` and the like: the last part of the name
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, with the end of its last line."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def from_docstring(text: str) -> str:
    """A docstring as :func:`inspect.getdoc` gives it, as Markdown: roles, literals, and blocks after ``::``."""
    parts = []
    for paragraph in _paragraphs(_ROLE.sub(r"`\1`", text)):
        if paragraph.startswith("    "):
            block = "\n".join(line.removeprefix("    ") for line in paragraph.splitlines())
            parts.append(f"```text\n{block}\n```")
        else:
            parts.append(paragraph.replace("``", "`").removesuffix("::") + (":" if paragraph.endswith("::") else ""))
    return "\n\n".join(parts)


def with_links(text: str, root: str) -> str:
    """The text with a link for each page that it names by its path; ``root``: the way to the root of the repository."""
    return re.sub(r"(?<![`/\w])(?<!\]\()((?:results|docs)/[\w-]+\.md)", rf"[\1]({root}\1)", text)


def _paragraphs(text: str) -> list[str]:
    """Paragraphs; indented ones that follow each other are one."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if found and found[-1].startswith("    ") and paragraph.startswith("    "):
            found[-1] += "\n\n" + paragraph
        else:
            found.append(paragraph)
    return found
