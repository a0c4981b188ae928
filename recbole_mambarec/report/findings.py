"""What a comparison found, in two sentences for each dataset."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_mambarec.report.document import count, listing, number
from recbole_mambarec.report.kinds import ordered
from recbole_mambarec.report.load import Row, datasets, mean
from recbole_mambarec.report.paired import Paired

# models that a sentence names
_MOST_NAMES = 4


def sentences(rows: Sequence[Row], mask: str, metric: str | None, tests: Paired | None) -> list[str]:
    """For each dataset with several models: which is the best, by how much, and whether the difference is significant.

    Args:
        tests: paired tests of the rows; without them, nothing is said about significance.
    """
    found = []
    for dataset, here in datasets(rows).items():
        scored = [row for row in here if metric and row.test(mask, metric)]
        if metric is None or len(scored) < 2:
            continue
        best, second = ordered(scored, mask, metric, by_kind=False)[:2]
        score, next_score = mean(best.test(mask, metric)), mean(second.test(mask, metric))
        assert score is not None and next_score is not None
        ahead = f"{number(100 * abs(score - next_score) / next_score, 1)} % ahead of " if next_score else "ahead of "
        place = f"is the best of {len(scored)} models in test {metric} with {number(score)}"
        rest = f"{ahead}{second.label} ({number(next_score)})"
        if score == next_score:
            place = f"shares the first of {len(scored)} places in test {metric} with {second.label}"
            rest = f"both have {number(score)}"
        sentence = f"On {dataset}, {best.label} {place} ({count(len(best.seeds), 'seed')}), {rest}."
        found.append(f"{sentence} {_tested(best, len(scored), tests, dataset, metric)}".rstrip())
    return found


def _tested(best: Row, n_models: int, tests: Paired | None, dataset: str, metric: str) -> str:
    """Which of the others the best model is significantly better than."""
    if tests is None:
        return ""
    family = tests.by_user.get((dataset, metric)) or tests.by_seed.get((dataset, metric))
    if family is None:
        return "The differences could not be tested; the main table says why."
    alike = [each.label for each in family.comparisons if not each.significant]
    total = len(family.comparisons)
    how = f"By {family.unit} (Wilcoxon's test, Holm's correction), "
    how += f"and among the {total + 1} models that could be compared, " if total + 1 < n_models else ""
    how += "it" if family.best == best.label else family.best
    if not alike:
        return f"{how} is better than {'each of the others' if total > 1 else 'the other'}."
    if len(alike) == total:
        return f"{how} is not shown to be better than {f'any of the {total} others' if total > 1 else 'the other'}."
    shown = alike if len(alike) <= _MOST_NAMES else [*alike[:_MOST_NAMES], f"{len(alike) - _MOST_NAMES} more"]
    return f"{how} is better than {total - len(alike)} of the {total} others, and cannot be told from {listing(shown)}."
