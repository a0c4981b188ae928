"""The tables of a report as LaTeX (package booktabs)."""

from __future__ import annotations

from dataclasses import replace

from recbole_mambarec.report.document import MISSING, Block, Cell, Report, Table

# number of rows of a table that fit on a page besides caption and notes
_ROWS = 45

_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "≠": r"$\neq$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\N{NO-BREAK SPACE}": "~",
    MISSING: "--",
}


def render(report: Report) -> str:
    """All tables, each a float with its notes below, for ``\\input``."""
    tables = [part for section in report.sections for table in section.tables for part in _pages(table)]
    commands = [f"{name}: {line}" for section in report.sections for name, line in section.commands]
    head = ["needs \\usepackage{booktabs}", *(line for command in commands for line in command.splitlines())]
    return "\n".join([*(f"% {line}" for line in head), "", *map(_table, tables)])


def _pages(table: Table) -> list[Table]:
    """The table in parts that fit on a page, cut between blocks; the notes are under the last."""
    parts: list[list[Block]] = [[]]
    for block in table.blocks:
        if parts[-1] and sum(len(each.rows) + 1 for each in (*parts[-1], block)) > _ROWS:
            parts.append([])
        parts[-1].append(block)
    pages = []
    for number, blocks in enumerate(parts, start=1):
        caption = table.caption if number == 1 else f"{table.caption.removesuffix('.')}, continued."
        name = table.name if number == 1 else f"{table.name}-{number}"
        pages.append(
            replace(table, name=name, caption=caption, blocks=blocks, notes=table.notes * (number == len(parts)))
        )
    return pages


def _table(table: Table) -> str:
    columns = len(table.header)
    lines = [
        *([f"% {table.origin}"] if table.origin else []),
        r"\begin{table}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        f"\\caption{{{escape(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{{'l' * table.words}{'r' * (columns - table.words)}}}",
        r"\toprule",
        _row([escape(name) for name in table.header]),
        r"\midrule",
    ]
    for number, block in enumerate(table.blocks):
        if block.heading:
            lines += [r"\midrule"] * (number > 0)
            lines.append(_row([f"\\multicolumn{{{columns}}}{{l}}{{\\textit{{{escape(block.heading)}}}}}"]))
        for kind, row in block.lines():
            lines += [_row([f"\\multicolumn{{{columns}}}{{l}}{{\\quad {escape(kind)}}}"])] if kind else []
            lines.append(_row([_cell(cell, table.padding(n, cell)) for n, cell in enumerate(row)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines.append(r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize")
        lines += [rf"{escape(note)}\par" for note in table.notes]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, padding: str) -> str:
    value = escape(cell.text)
    if cell.rank:
        value = f"\\{'textbf' if cell.rank == 'best' else 'underline'}{{{value}}}"
    value += r"\rlap{$^{*}$}" * cell.star
    value = rf"\textit{{{value}}}" if cell.aside and value else value
    if cell.spread:
        return rf"{value} {{\scriptsize$\pm${escape(cell.spread)}}}"
    return rf"{value} \phantom{{\scriptsize$\pm${escape(padding)}}}" if padding else value


def escape(text: str) -> str:
    """``text`` so that LaTeX prints it as it is."""
    return "".join(_SPECIAL.get(character, character) for character in text)
