"""Command line of ``recbole-mambarec significance``: paired tests of recorded runs, as tables for the terminal."""

from __future__ import annotations

import argparse
import sys

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.significance import ALPHA, Family, over_seeds, over_users
from recbole_mambarec.experiments.store import MASKS, UNMASKED, Record
from recbole_mambarec.report import load
from recbole_mambarec.report.significance import terminal_table
from recbole_mambarec_command.command_line import example


def main(argv: list[str] | None = None, prog: str = "recbole-mambarec significance") -> int:
    """Test, on each dataset, whether the best model is better than each of the others.

    Raises:
        UserError: a file is missing or not a file of runs, the records lack what an option names, or they do not allow
            the test.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare the model with the best mean with each of the others: two-sided Wilcoxon signed-rank and "
        "paired t-tests with Holm's correction, effect sizes and bootstrap intervals, paired by user or by seed.",
        epilog=f"Example: {example(prog)} results/runs.jsonl --dataset=baby --metric=ndcg@20",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", help="files of records, such as results/runs.jsonl")
    add("--dataset", "-d", help="only these datasets, separated by commas")
    add("--models", "-m", help="only these models or labels, separated by commas")
    add("--group", "-g", help="the group of runs (default: all that compare models)")
    add("--metric", default="recall@20", help="default %(default)s")
    masks = (*MASKS, UNMASKED)
    add("--mask", choices=masks, default=masks[0], help="items removed from the ranking at test (default %(default)s)")
    add("--by", choices=("user", "seed"), help="what a pair is (default: a user if all runs have results per user)")
    add("--alpha", type=float, default=ALPHA, help="level of significance (default %(default)s)")
    options = parser.parse_args(argv)
    if not 0 < options.alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, got {options.alpha:g}")
    runs = load.read(options.runs)
    names = _names(options.dataset)
    rows = _chosen((runs if names is None else runs.of(names)).comparison(options.group), _names(options.models))
    if not rows:
        raise UserError(f"there are no finished runs to compare in {', '.join(options.runs)}")
    parts, errors = [], []
    for dataset, rows_of_dataset in load.datasets(rows).items():
        try:
            family, single_seed = _tested(rows_of_dataset, options)
        except UserError as error:
            errors.append(f"{dataset}: {error}")
            continue
        part = f"{dataset}, {options.metric.lower()} (mask: {options.mask})\n\n{terminal_table(family)}"
        parts.append(part + (f"\nleft out, with one seed: {', '.join(single_seed)}" if single_seed else ""))
    if not parts:
        raise UserError("; ".join(errors))
    print("\n\n".join([*parts, *(f"not tested: {error}" for error in errors)]))
    return 0


def _tested(rows: list[load.Row], options: argparse.Namespace) -> tuple[Family, list[str]]:
    """(the comparisons of one dataset, the labels that have too few seeds for them)."""
    by = options.by or ("user" if all(row.has_users for row in rows) else "seed")
    if by == "user":
        return over_users(_records(rows), "", options.mask, options.metric, options.alpha), []
    several_seeds = [row for row in rows if len(row.seeds) > 1]
    family = over_seeds(_records(several_seeds), options.mask, options.metric, options.alpha) if several_seeds else None
    if family is None:
        raise UserError(
            f"{', '.join(row.label for row in rows)} have fewer than two seeds in common, so nothing can be tested "
            "over seeds: run more of them (--seeds), name the models that have several (--models), or compare by user "
            "(--by=user)"
        )
    return family, [row.label for row in rows if len(row.seeds) < 2]


def _records(rows: list[load.Row]) -> list[Record]:
    return [record for row in rows for record in row.named()]


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _chosen(rows: list[load.Row], names: list[str] | None) -> list[load.Row]:
    if names is None:
        return rows
    available = {name for row in rows for name in (row.label, row.model)}
    for name in names:
        if name not in available:
            raise UserError(
                f"there are no runs of '{name}' in these records: there are some of {', '.join(sorted(available))}"
            )
    return [row for row in rows if row.label in names or row.model in names]
