"""The papers of the models: what docs/models.bib says, and its entries as a block on a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).resolve().parents[1] / "docs" / "models.bib"

_ENTRY = re.compile(r"@(\w+)\{([^\s,{}]+),\n(.*?)^\}\n", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"  (\w+) += \{(.*?)\},\n", re.DOTALL)


class Entry(NamedTuple):
    """A paper. ``models``: those that stand on it, from the field ``keywords``, which is not part of ``text``."""

    kind: str
    key: str
    fields: dict[str, str]
    models: list[str]
    text: str

    @property
    def title(self) -> str:
        """The title without the braces that keep capitals."""
        return re.sub(r"[{}]", "", self.fields["title"])


def read(text: str) -> list[Entry]:
    """The entries of a file in which every field begins a line, ``  name = {value},``, and may go on in the next ones.

    :raises ValueError: on anything else, a key or field that occurs twice, and an entry without ``keywords``.
    """
    found: dict[str, Entry] = {}
    for kind, key, body in _all(_ENTRY, text, "an entry"):
        pairs = [(name, " ".join(value.split())) for name, value in _all(_FIELD, body, f"a field of {key}")]
        fields = dict(pairs)
        if key in found or len(fields) < len(pairs):
            raise ValueError(f"{key}, or one of its fields, occurs twice")
        if unbalanced := [name for name, value in pairs if value.count("{") != value.count("}")]:
            raise ValueError(f"{key}: unbalanced braces in {', '.join(unbalanced)}")
        if "keywords" not in fields:
            raise ValueError(f"{key} has no keywords, which name the models that stand on it")
        shown = re.sub(r"^  keywords .*\n", "", body, flags=re.MULTILINE)
        models = fields.pop("keywords").split(", ")
        found[key] = Entry(kind, key, fields, models, f"@{kind}{{{key},\n{shown}}}\n")
    return list(found.values())


def _all(pattern: re.Pattern[str], text: str, what: str) -> list[tuple[str, ...]]:
    """The groups of all matches, between which there are only empty lines."""
    if rest := pattern.sub("", text).strip():
        raise ValueError(f"not {what}: {rest.splitlines()[0]}")
    return pattern.findall(text)


def of(model: str, entries: list[Entry]) -> list[Entry]:
    """The papers that a model stands on."""
    return [entry for entry in entries if model in entry.models]


def block(entries: list[Entry]) -> str:
    """Entries as a block of code in Markdown, with the end of its last line."""
    return "```bibtex\n" + "\n".join(entry.text for entry in entries) + "```\n"
