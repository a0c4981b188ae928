"""Command line of ``recbole-mambarec evaluate``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.reevaluation import AlreadyRecorded, Evaluation, combinations, evaluate
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec.scoring.changed import CHANGEABLE, check_values, read_values
from recbole_mambarec.scoring.restore import FUSION
from recbole_mambarec_command.command_line import example, termination_as_interrupt
from recbole_mambarec_common.options import configuration
from recbole_mambarec_common.terminal import table

_OPTIONS = frozenset(f"--{key}" for key in CHANGEABLE)


def main(argv: list[str] | None = None, prog: str = "recbole-mambarec evaluate") -> int:
    """Evaluate trained models.

    Raises:
        UserError: an option is faulty, or a model cannot be evaluated; what was evaluated before has been printed.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Evaluate trained models on validation and test again: as they are, or with other values of "
        f"{', '.join(CHANGEABLE)}, which do not change the training.",
        epilog="Any other --key=value gives such a value; several, separated by commas, are tried one after another. "
        f"Example: {example(prog)} saved/FREEDOM-....pth --cold_scale=0,0.5,1. Checkpoints that RecBole's own models "
        "have written are pickles: set RECBOLE_MAMBAREC_TRUST_CHECKPOINTS=1 if you trust them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="FILE", help="a checkpoint, or the file of a fusion")
    add("--runs", help="also record the evaluations with other values in this file (default: nothing is written)")
    add("--per_user", choices=("True", "False"), default="True", help="record results per user (default %(default)s)")
    add("--data_path", "--data-path", help="folder with the dataset's folder (default: where the model was trained)")
    # values may have blanks, which the parser would take for files, and may stand between files
    given = [argument for argument in argv if argument.partition("=")[0] in _OPTIONS]
    options, rest = parser.parse_known_intermixed_args([argument for argument in argv if argument not in given])
    chosen = combinations(_values(configuration(argv, [*given, *rest])))
    _check_files(options.checkpoints)
    for changed in chosen:
        check_values(changed)
    with termination_as_interrupt(), user_errors_of_recbole(), _each_warning_once():
        for number, (file, changed) in enumerate((file, changed) for file in options.checkpoints for changed in chosen):
            title = "\n" * bool(number) + f"{file}, {_setting(changed)}"
            try:
                made = evaluate(
                    file,
                    changed,
                    data_path=options.data_path,
                    runs=options.runs,
                    per_user=options.per_user == "True",
                )
            except AlreadyRecorded:
                print(f"{title}: recorded before in {options.runs}")
                continue
            print(f"{title}\n{summary(made)}")
            if made.record is not None:
                print(f"recorded in {options.runs}")
            elif options.runs:
                print("not recorded: it has been evaluated as it was trained")
    return 0


def _check_files(files: Sequence[str]) -> None:
    """Refuse a list of files before the first of them is evaluated."""
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"there is no checkpoint {file}" if file else "a checkpoint has an empty name")
    resolved = [Path(file).resolve() for file in files]
    for file, path in zip(files, resolved):
        if resolved.count(path) > 1:
            raise UserError(f"{file} is named twice: name it once")


@contextlib.contextmanager
def _each_warning_once() -> Iterator[None]:
    """What the data give rise to would be said again for each value."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in said
        said.add(record.getMessage())
        return not known

    logging.getLogger().addFilter(is_new)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_new)


def _values(texts: Mapping[str, str]) -> dict[str, list]:
    """Key -> the values to be tried."""
    # the value of user_features is a list itself
    parts = {key: [text] if key == "user_features" else text.split(",") for key, text in texts.items()}
    found = {
        key: [read_values({key: value.strip()}, CHANGEABLE)[key] for value in values] for key, values in parts.items()
    }
    for key, values in found.items():
        if "" in values or len(set(values)) < len(values):
            raise UserError(f"--{key}={texts[key]} is not understood: give distinct values, separated by commas")
    return found


def _setting(changed: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in changed.items()) or "as it was trained"


def summary(made: Evaluation) -> str:
    """A table of all scores: a line per split and mask, followed by those of known and new items if there are any."""
    metrics = list(made.valid)
    users = [""] if made.groups else []
    lines = []
    for part, scores in (("validation", made.valid), *made.test.items()):
        title = part if part == "validation" else f"test, {part} masked"
        lines.append([title, *users, *(_number(scores.get(metric)) for metric in metrics)])
        whole, *groups = made.groups.get(part) or [None]
        if whole is not None:
            lines[-1][1] = f"{whole.users:,}"
        for group in groups if all(group.users for group in groups) else ():
            cells = (_number(group.scores.get(metric)) for metric in metrics)
            lines.append([f"  {group.name} items", f"{group.users:,}", *cells])
    name = f"{made.name} on {made.dataset}" + (f", seed {made.seed}" if made.name != FUSION else "")
    return table([name, *(["users"] if made.groups else []), *metrics], lines)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"
