"""``recbole-mambarec COMMAND``: the table of commands, each of which is imported when it is called."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from recbole_mambarec_command import __version__, requirements
from recbole_mambarec_command.command_line import CONSOLE, MODULE, ReportedError, called_as, run_main


class Command(NamedTuple):
    """A line of the table.

    Attributes:
        summary: its line in ``--help``.
        target: ``module:function``, called with the arguments and with ``prog``, what the user has typed before them.
        group: its heading in ``--help``.
    """

    summary: str
    target: str
    group: str


_DATA, _MODELS, _RESULTS, _USE, _HERE = "Data", "Models", "Results", "Recommendations", "This installation"

COMMANDS: dict[str, Command] = {
    "prepare": Command("turn raw files into a dataset that models can run", "dataset_prep.__main__:main", _DATA),
    "run": Command("train, validate and test one model", "recbole_mambarec.cli:run_recbole", _MODELS),
    "compare": Command(
        "train and test several models with several seeds, and record every run",
        "recbole_mambarec.experiments.group:main",
        _MODELS,
    ),
    "tune": Command(
        "search for hyper-parameters on the validation split", "recbole_mambarec.experiments.hyper:main", _MODELS
    ),
    "evaluate": Command(
        "evaluate trained models again, with other values of keys that do not change the training",
        "recbole_mambarec.experiments.evaluate_cli:main",
        _MODELS,
    ),
    "fuse": Command(
        "rank by several recorded runs at once, with weights found on validation",
        "recbole_mambarec.experiments.fuse_cli:main",
        _MODELS,
    ),
    "report": Command("tables and charts of recorded runs", "recbole_mambarec.report.cli:main", _RESULTS),
    "significance": Command(
        "test whether the best of the recorded models is better than each other one",
        "recbole_mambarec.report.significance_cli:main",
        _RESULTS,
    ),
    "recommend": Command(
        "rank the catalogue for users of a trained model, into a file or the terminal",
        "recbole_mambarec_serving.cli:recommend",
        _USE,
    ),
    "similar": Command(
        "list similar items, by what a model has learnt or by features", "recbole_mambarec_serving.cli:similar", _USE
    ),
    "export": Command(
        "write a trained model as a bundle that needs neither torch nor RecBole, or for another store",
        "recbole_mambarec.recommend.cli:export",
        _USE,
    ),
    "serve": Command(
        "answer requests for recommendations over HTTP, with a page to look at them",
        "recbole_mambarec_serving.server.cli:main",
        _USE,
    ),
    "doctor": Command(
        "what is installed, what works, and how to repair what does not", "recbole_mambarec_command.doctor:main", _HERE
    ),
}

_EXAMPLES = (
    "run --model=MambaRec --dataset=ml-100k",
    "prepare mmrec downloads/baby --name baby",
    "compare --models=BPR,LightGCN,MambaRec --dataset=baby --seeds=3",
)


def main(argv: list[str] | None = None) -> None:
    """The command line; ends the process."""
    module = Path(sys.argv[0]).name == "__main__.py"
    called_as(MODULE if module else CONSOLE)
    prog = MODULE if module else CONSOLE
    run_main(lambda: _main(sys.argv[1:] if argv is None else argv, prog))


def run_script(command: str, prog: str) -> None:
    """Run a command for a script such as ``run_recbole.py``; ends the process."""
    run_main(lambda: call(command, sys.argv[1:], prog))


def _main(argv: list[str], prog: str) -> int:
    first, *rest = argv or ["--help"]
    if first == "help":
        first, rest = (rest[0], ["--help"]) if rest else ("--help", [])
    if first in ("--help", "-h"):
        print(overview(prog))
        return 0
    if first in ("--version", "-V"):
        print(versions())
        return 0
    if first.startswith("-"):
        # options of `run` without its name, as for RecBole's own script
        first, rest = "run", argv
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, 1, 0.5)
        advice = f"did you mean {near[0]}" if near else f"use one of {', '.join(COMMANDS)}"
        raise ReportedError(f"'{first}' is not a command of {prog}: {advice} ({prog} --help)")
    return call(first, rest, f"{prog} {first}")


def call(name: str, argv: list[str], prog: str) -> int:
    """Run one command; returns the exit status.

    Raises:
        ReportedError: the user has made a mistake, or a requirement is missing or broken.
    """
    if name != "doctor":  # which reports this itself
        requirements.check_python()
    # RecBole's Config reads sys.argv as configuration, which the name of a command is not
    sys.argv = [sys.argv[0], *argv]
    return _function(COMMANDS[name].target)(argv, prog=prog) or 0


def _function(target: str) -> Callable:
    module, _, name = target.partition(":")
    try:
        if module.startswith("recbole_mambarec."):
            importlib.import_module("recbole_mambarec").start()
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        missing = requirements.explained(error)
        if missing is None:
            raise
        raise missing from error


def overview(prog: str = CONSOLE) -> str:
    """The text of ``--help``."""
    width = max(map(len, COMMANDS))
    lines = [
        f"usage: {prog} COMMAND [OPTIONS]",
        "",
        "Multimodal recommendation models in RecBole: prepare data, train, compare, tune, report.",
    ]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [
            f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items() if command.group == group
        ]
    lines += ["", "Examples:", *(f"  {prog} {example}" for example in _EXAMPLES)]
    lines += [
        "",
        f"Options of a command: {prog} COMMAND --help. Without a command, options are those of run.",
        f"Versions: {prog} --version.",
    ]
    where = documentation()
    return "\n".join([*lines, *([f"Documentation: {where}"] if where else [])])


def documentation() -> str | None:
    """The README of a source tree, else the address of the documentation in the installed package's metadata."""
    readme = Path(__file__).resolve().parents[1] / "README.md"
    if readme.is_file():
        return str(readme)
    try:
        links = metadata.metadata(requirements.DISTRIBUTION).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        links = []
    pages = dict(link.split(", ", 1) for link in links)
    return pages.get("Documentation") or pages.get("Homepage") or pages.get("Source")


def versions() -> str:
    """The versions of this package, RecBole, torch, numpy and Python in a line."""
    others = [f"{name} {requirements.version_of(name.lower()) or 'missing'}" for name in ("RecBole", "torch", "numpy")]
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{CONSOLE} {__version__} ({', '.join(others)}, Python {python})"


if __name__ == "__main__":
    main()
