"""Command line of ``recbole-mambarec significance``: the test of recorded runs as a table for the terminal."""

from __future__ import annotations

import argparse
import sys

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.significance import ALPHA, INTERVAL, Family, over_seeds, over_users
from recbole_mambarec.experiments.store import MASKS, UNMASKED
from recbole_mambarec.report import load
from recbole_mambarec_command.doors import example
from recbole_mambarec_common.terminal import table


def main(argv: list[str] | None = None, prog: str = "recbole-mambarec significance") -> int:
    """Test, on each dataset, whether the best model is better than each other one.

    Raises:
        UserError: a file is missing or of another form, the records do not have what an option names, or they do not
            allow the test.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare the model with the best mean with each other one: two-sided Wilcoxon signed-rank and "
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
    add("--mask", choices=masks, default=masks[0], help="taken out of the ranking at test (default %(default)s)")
    add("--by", choices=("user", "seed"), help="what pairs are (default: users where all runs have results per user)")
    add("--alpha", type=float, default=ALPHA, help="level of significance (default %(default)s)")
    options = parser.parse_args(argv)
    if not 0 < options.alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, got {options.alpha:g}")
    runs = load.read(options.runs)
    names = _names(options.dataset)
    rows = _chosen((runs if names is None else runs.of(names)).comparison(options.group), _names(options.models))
    if not rows:
        raise UserError(f"there are no finished runs to compare in {', '.join(options.runs)}")
    parts, obstacles = [], []
    for dataset, here in load.datasets(rows).items():
        try:
            found = _tested(here, options)
        except UserError as error:
            obstacles.append(f"{dataset}: {error}")
        else:
            parts.append(f"{dataset}, {options.metric.lower()} (mask: {options.mask})\n\n{found}")
    if not parts:
        raise UserError("; ".join(obstacles))
    print("\n\n".join([*parts, *(f"not tested: {obstacle}" for obstacle in obstacles)]))
    return 0


def _tested(rows: list[load.Row], options: argparse.Namespace) -> str:
    """The rows of one dataset."""
    by = options.by or ("user" if all(row.has_users for row in rows) else "seed")
    if by == "user":
        records = [record for row in rows for record in row.named()]
        return text(over_users(records, "", options.mask, options.metric, options.alpha))
    several = [row for row in rows if len(row.seeds) > 1]
    records = [record for row in several for record in row.named()]
    family = over_seeds(records, options.mask, options.metric, options.alpha) if several else None
    if family is None:
        raise UserError(
            f"{', '.join(row.label for row in rows)} have fewer than two seeds in common, and nothing can be tested "
            "over seeds: run more of them (--seeds), name those that have several (--models), or compare by user "
            "(--by=user)"
        )
    single = [row.label for row in rows if len(row.seeds) < 2]
    return text(family) + (f"\nleft out, with one seed: {', '.join(single)}" if single else "")


def text(family: Family) -> str:
    """A family of comparisons as a table and what it says, and from what."""
    header = ["model", "mean", "difference", "interval", "p (Wilcoxon)", "p (t)", "d_z", "rank-biserial", ""]
    lines = [[family.best, f"{family.best_mean:.4f}", *[""] * 7]]
    for each in family.comparisons:
        low, high = each.interval
        numbers = [f"{each.mean:.4f}", f"{each.difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]"]
        tests = [f"{each.p_wilcoxon:.3g}", f"{each.p_t:.3g}", f"{each.d_z:.2f}", f"{each.rank_biserial:.2f}"]
        lines.append([each.label, *numbers, *tests, "*" if each.significant else ""])
    notes = [
        f"*: {family.best} is better with p < {family.alpha:g}, by {family.method}.",
        f"difference: that of {family.best} to the model of the line; interval: {INTERVAL}.",
        *([family.limit] if family.limit else []),
    ]
    return "\n".join([table(header, lines), "", *notes])


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _chosen(rows: list[load.Row], names: list[str] | None) -> list[load.Row]:
    if names is None:
        return rows
    known = {name for row in rows for name in (row.label, row.model)}
    for name in names:
        if name not in known:
            raise UserError(
                f"there are no runs of '{name}' in these records: there are some of {', '.join(sorted(known))}"
            )
    return [row for row in rows if row.label in names or row.model in names]
