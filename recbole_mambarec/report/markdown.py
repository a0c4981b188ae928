"""A report, or the results of one dataset, as Markdown."""

from __future__ import annotations

from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.report.document import Cell, Chart, Report, Section, Table

# marks, in a file of notes, where the tables go; without it they follow the notes
TABLES_HERE = "<!-- tables -->"


def render(report: Report) -> str:
    """The whole report; it refers to charts in ``charts/`` beside it."""
    parts = [f"# {_escape(report.title)}", *map(_escape, report.summary), *_sections(report)]
    if report.omissions:
        parts.append("## Left out")
        parts.append("\n".join(f"- {each.title}: {_sentence(each.reason)}" for each in report.omissions))
    return "\n\n".join(parts) + "\n"


def page(report: Report, notes: str | None, source: str) -> str:
    """The tables of a report around hand-written notes, which are kept as they are.

    Args:
        notes: Markdown; a first line ``# ...`` is the title of the page.
        source: the file of notes, named for readers who want to change the page.
    """
    before, _, after = (notes or "").partition(TABLES_HERE)
    before, after = before.strip("\n"), after.strip("\n")
    title = "" if before.startswith("# ") else f"# {_escape(report.title)}"
    origin = f"<!-- Written by `{report.command}`; notes are in {source}. -->"
    parts = [origin, title, before, *map(_escape, report.summary), *_sections(report), after]
    return "\n\n".join(filter(None, parts)) + "\n"


def read_notes(path: Path) -> str:
    """The notes of a page.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"notes {path} cannot be read ({error}): give a text file in UTF-8") from None


def _sections(report: Report) -> list[str]:
    # a report on one dataset does not repeat its name above each table
    only_dataset = report.datasets[0] if len(report.datasets) == 1 else ""
    return [part for section in report.sections for part in _section(section, only_dataset)]


def _section(section: Section, only_dataset: str) -> list[str]:
    parts = [f"## {section.title}", *map(_escape, section.text)]
    for chart in section.charts:
        parts.append(f"![{_escape(chart.alt)}](charts/{chart.name}.png)\n\n*{_escape(_caption(chart))}*")
    for table in section.tables:
        parts += _table(table, only_dataset)
    if section.commands:
        lines = [f"# {name}\n{line}" for name, line in section.commands]
        parts.append("```sh\n" + "\n".join(lines) + "\n```")
    return parts


def _table(table: Table, only_dataset: str) -> list[str]:
    parts = [f"**{_escape(_caption(table))}**"]
    rule = ["---" if number < table.words else "---:" for number in range(len(table.header))]
    for block in table.blocks:
        lines = [[_escape(name) for name in table.header], rule]
        for kind, row in block.lines():
            lines += [[f"*{_escape(kind)}*", *[""] * (len(table.header) - 1)]] if kind else []
            lines.append([_cell(cell) for cell in row])
        parts += [f"### {_escape(block.heading)}"] if block.heading not in ("", only_dataset) else []
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return parts + [_escape(note) for note in table.notes]


def _cell(cell: Cell) -> str:
    value = _escape(cell.text)
    if cell.rank:
        value = f"**{value}**" if cell.rank == "best" else f"<ins>{value}</ins>"
    value += r"\*" * cell.star + f" ± {cell.spread}" * bool(cell.spread)
    return f"*{value}*" if cell.aside and value else value


def _caption(part: Table | Chart) -> str:
    return f"{part.caption} {part.origin}".rstrip()


def _sentence(text: str) -> str:
    return _escape(text if text.endswith(".") else f"{text}.")


def _escape(text: str) -> str:
    for character in "\\*_|<>`[]":
        text = text.replace(character, f"\\{character}")
    return text
