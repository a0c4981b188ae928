"""The tables of a report as LaTeX (package booktabs)."""

from __future__ import annotations

from recbole_mambarec.report.document import MISSING, Cell, Report, Table

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
    tables = [table for section in report.sections for table in section.tables]
    return "% needs \\usepackage{booktabs}\n\n" + "\n".join(map(_table, tables))


def _table(table: Table) -> str:
    columns = len(table.header)
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
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
        lines += [_row([_cell(cell, table.padding(n, cell)) for n, cell in enumerate(row)]) for row in block.rows]
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
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(character, character) for character in text)
