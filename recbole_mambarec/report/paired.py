"""Significance of what a table shows: by user where the records allow it, else over seeds, else not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.significance import ALPHA, Family, over_seeds, over_users
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import Row, datasets, without_folders


@dataclass(frozen=True)
class Paired:
    """What was tested, by (dataset, metric).

    Attributes:
        by_user, by_seed: what could be tested in either way; by user, of the models that have results per user.
        reasons: why something could not be tested by user, or not for all models.
    """

    by_user: dict[tuple[str, str], Family]
    by_seed: dict[tuple[str, str], Family]
    reasons: dict[tuple[str, str], str]

    def family(self, dataset: str, metric: str) -> Family | None:
        """What decides the stars of a column: the test of all its models."""
        column = dataset, metric
        return self.by_seed.get(column) if column in self.reasons else self.by_user[column]

    def star(self, dataset: str, metric: str, label: str) -> bool:
        """Whether the best is better than each other model, significantly."""
        family = self.family(dataset, metric)
        return family is not None and family.best == label and all(each.significant for each in family.comparisons)

    def statements(self, rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
        """What a table of these rows and columns has to say under it."""
        where: dict[tuple[str, str], list[tuple[str, str]]] = {}
        untested: dict[str, list[tuple[str, str]]] = {}
        for column in product(datasets(rows), metrics):
            family = self.family(*column)
            if family is None:
                untested.setdefault(self.reasons[column], []).append(column)
            else:
                where.setdefault((family.method, family.limit), []).append(column)
        return [
            *(
                f"* the best of its column ({_names(columns)}), and better than each other model there with "
                f"p < {ALPHA:g} by {method}.{' ' * bool(limit)}{limit}"
                for (method, limit), columns in where.items()
            ),
            *(f"Significance not tested ({_names(columns)}): {reason}." for reason, columns in untested.items()),
        ]

    def not_by_user(self) -> list[str]:
        """Why something was not tested by user."""
        where: dict[str, list[tuple[str, str]]] = {}
        for column, reason in self.reasons.items():
            where.setdefault(reason, []).append(column)
        return [f"Not by user ({_names(columns)}): {reason}." for reason, columns in where.items()]


def _names(columns: list[tuple[str, str]]) -> str:
    parts: dict[str, list[str]] = {}
    for dataset, metric in columns:
        parts.setdefault(dataset, []).append(metric)
    return "; ".join(f"{dataset}: {listing(metrics)}" for dataset, metrics in parts.items())


def compare_all(rows: Sequence[Row], mask: str, metrics: Sequence[str], step=lambda: None) -> Paired:
    """Test every metric on every dataset.

    Args:
        step: called after each of them.
    """
    by_user, by_seed, reasons = {}, {}, {}
    for dataset, here in datasets(rows).items():
        known = [row for row in here if row.has_users]
        for metric in metrics:
            column = dataset, metric
            obstacle = _obstacle(here, mask, metric)
            if obstacle:
                reasons[column] = obstacle
                step()
                continue
            if len(known) < len(here):
                lacking = listing([row.label for row in here if not row.has_users])
                reasons[column] = f"there are no results per user of {lacking}"
            try:
                if len(known) > 1:
                    by_user[column] = over_users(_named(known), "", mask, metric)
            except UserError as error:
                reasons[column] = without_folders(error)
            family = over_seeds(_named(here), mask, metric)
            if family is not None:
                by_seed[column] = family
            step()
    return Paired(by_user, by_seed, reasons)


def _obstacle(rows: Sequence[Row], mask: str, metric: str) -> str | None:
    """Why nothing can be tested."""
    if len(rows) < 2:
        return "there is one model, nothing to compare it with"
    lacking = [row.label for row in rows if len(row.test(mask, metric)) < len(row.records)]
    return f"{listing(lacking)} without {metric}" if lacking else None


def _named(rows: Sequence[Row]) -> list[dict]:
    return [record for row in rows for record in row.named()]
