"""Command line of ``recbole-mambarec report`` and ``python -m recbole_mambarec.report``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.store import MASKS, UNMASKED
from recbole_mambarec.report import latex, load, markdown, page
from recbole_mambarec.report.document import Report
from recbole_mambarec.report.sections import SECTIONS, Builder, Options
from recbole_mambarec_command.command_line import example
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_file

CHARTS = "charts"


def main(argv: list[str] | None = None, prog: str = "python -m recbole_mambarec.report") -> int:
    """Write a report, or the page of one dataset.

    Raises:
        UserError: a file is missing or not a file of runs, an option names something that the records do not have, or
            an optional package is missing; nothing has been written by then.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Tables and charts from the records of runs: one HTML page, Markdown and LaTeX.",
        epilog=f"Example: {example(prog)} results/runs.jsonl --out report",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", help="files of records: of groups (runs.jsonl) and of searches (trials.jsonl, chosen.jsonl)")
    add("--out", help="folder for index.html, report.md, tables.tex and charts (default report)")
    add("--page", help="instead: write the tables of one dataset into this Markdown file")
    add("--notes", help="hand-written Markdown for --page (default: notes/<page> beside the page, if it exists)")
    add("--dataset", "-d", help="only these datasets, separated by commas")
    add("--group", "-g", help="the group of the main table (default: all that compare models)")
    masks = (*MASKS, UNMASKED)
    add("--mask", choices=masks, default=masks[0], help="items removed from the ranking at test (default %(default)s)")
    add("--metrics", help="columns, separated by commas (default: all recorded)")
    add("--reference", help="model or label to which others are compared (default: the best of the others)")
    add("--published", choices=("True", "False"), default="True", help="show published scores (default %(default)s)")
    add(
        "--variants", action="store_true", help="a row for each configuration of a model (default: validation's choice)"
    )
    add("--sections", help=f"only some of {', '.join(SECTIONS)} (default: all that have data)")
    add("--title", help="title of the report")
    given = parser.parse_args(argv)
    if given.page and given.out:
        raise UserError("--out writes a report and --page one Markdown file: give one of them")
    if given.notes and not given.page:
        raise UserError("--notes needs --page: name the page, too")

    names = _names(given.dataset)
    runs = load.read(given.runs)
    runs = runs if names is None else runs.of(names)
    datasets = list(dict.fromkeys(record.dataset for record in runs.finished))
    if given.page and len(datasets) != 1:
        raise UserError(
            f"a page is about one dataset, and there are runs on {', '.join(datasets)}: choose one with --dataset"
        )
    title = given.title or (datasets[0] if given.page else Options.title)
    options = Options(
        mask=given.mask,
        metrics=_names(given.metrics.lower() if given.metrics else None),
        reference=given.reference,
        group=given.group,
        published=given.published == "True",
        brief=bool(given.page),
        sections=_names(given.sections),
        variants=given.variants,
        title=title,
    )
    if not given.page:
        need("matplotlib", "report")
        need("jinja2", "report")
    report = Builder(runs, options, _command(argv)).report()
    if given.page:
        write_page(report, Path(given.page), None if given.notes is None else Path(given.notes))
    else:
        write(report, Path(given.out or "report"))
    print(
        *(f"left out: {each.title}: {each.reason}" for each in report.omissions),
        sep="\n",
        end="\n" * bool(report.omissions),
    )
    print(f"written: {given.page or Path(given.out or 'report') / 'index.html'}")
    return 0


def write(report: Report, folder: Path) -> None:
    """Write a report in all formats, and remove charts of an earlier report that this one does not have."""
    charts = [chart for section in report.sections for chart in section.charts]
    files = {f"{CHARTS}/{chart.name}.{kind}": getattr(chart, kind) for chart in charts for kind in ("svg", "png")}
    # everything is rendered before the first file is written; the page is written last
    files["report.md"] = markdown.render(report).encode()
    files["tables.tex"] = latex.render(report).encode()
    files["index.html"] = page.render(report).encode()
    earlier = _charts_of(folder / "index.html")
    for name, content in files.items():
        _write(folder / name, content)
    for name in earlier:
        for kind in ("svg", "png"):
            if f"{CHARTS}/{name}.{kind}" not in files:
                (folder / CHARTS / f"{name}.{kind}").unlink(missing_ok=True)


def write_page(report: Report, path: Path, notes: Path | None) -> None:
    """Write the Markdown page of one dataset around its notes.

    Raises:
        UserError: ``notes`` is given and cannot be read.
    """
    source = notes or path.parent / "notes" / path.name
    content = markdown.read_notes(source) if notes is not None or source.is_file() else None
    _write(path, markdown.page(report, content, _shown(str(source))).encode())


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def _charts_of(index: Path) -> list[str]:
    """Names of the charts on a page that this module wrote."""
    import re

    if not index.is_file():
        return []
    return re.findall(r'<figure id="chart-([\w-]+)">', index.read_text(encoding="utf-8", errors="replace"))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _shown(path: str) -> str:
    """An argument as it appears in a report: a path without the folders of this machine."""
    if not os.path.isabs(path):
        return path
    return Path(os.path.relpath(path)).as_posix() if Path(path).is_relative_to(Path.cwd()) else Path(path).name


def _command(argv: list[str]) -> str:
    parts = []
    for argument in argv:
        option, equals, value = argument.partition("=")
        parts.append(f"{option}={_shown(value)}" if argument.startswith("--") and equals else _shown(argument))
    return shlex.join(["python", "-m", "recbole_mambarec.report", *parts])
