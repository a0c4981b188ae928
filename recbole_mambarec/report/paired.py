"""Significance of the differences in a table: by user if the records allow it, else over seeds, else not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.significance import ALPHA, Family, over_seeds, over_users
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import Row, datasets, without_folders
from recbole_mambarec.report.significance import limits, method


@dataclass(frozen=True)
class Paired:
    """The tests of each column of a table, by (dataset, metric).

    Attributes:
        by_user: the tests by user, of the models that have results per user.
        by_seed: the tests over seeds, of the models that have several.
        reasons: why there is no test by user, or not of all models.
        single: the models of a column that have one seed while others have several.
    """

    by_user: dict[tuple[str, str], Family]
    by_seed: dict[tuple[str, str], Family]
    reasons: dict[tuple[str, str], str]
    single: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def family(self, dataset: str, metric: str) -> Family | None:
        """The test of all models of a column, which decides about its stars; None if there is none."""
        column = dataset, metric
        if column not in self.reasons:
            return self.by_user[column]
        return None if column in self.single else self.by_seed.get(column)

    def star(self, dataset: str, metric: str, label: str) -> bool:
        """Whether ``label`` is the best and significantly better than each of the others."""
        family = self.family(dataset, metric)
        return family is not None and family.best == label and all(each.significant for each in family.comparisons)

    def statements(self, rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
        """What to write under a table of these rows and columns."""
        where: dict[tuple[str, str], list[tuple[str, str]]] = {}
        untested: dict[str, list[tuple[str, str]]] = {}
        for column in product(datasets(rows), metrics):
            family = self.family(*column)
            if family is None:
                untested.setdefault(self.reasons[column], []).append(column)
            else:
                where.setdefault((method(family), limits(family)), []).append(column)
        return [
            *(
                f"* best of its column ({_names(columns)}), and better than each of the other models with "
                f"p < {ALPHA:g} by {tested}.{' ' * bool(limit)}{limit}"
                for (tested, limit), columns in where.items()
            ),
            *(f"Significance not tested ({_names(columns)}): {reason}." for reason, columns in untested.items()),
            *self._uneven(rows),
        ]

    def _uneven(self, rows: Sequence[Row]) -> list[str]:
        """Sentences on means that are over different seeds."""
        notes = []
        for dataset, here in datasets(rows).items():
            common = set.intersection(*(set(row.seeds) for row in here))
            more = [row.label for row in here if set(row.seeds) - common]
            if more and len(here) > 1:
                seeds = f"seed{'s' * (len(common) > 1)} {listing(sorted(map(str, common)))}" if common else "no seed"
                notes.append(
                    f"All rows of {dataset} have {seeds}; the means of {listing(more)} are over more, and tests use "
                    "only the seeds that the compared models have in common."
                )
        return notes

    def not_tested(self) -> list[str]:
        """Why there is no test by user, or not of all models over seeds, in sentences."""
        where: dict[str, list[tuple[str, str]]] = {}
        for column, reason in self.reasons.items():
            where.setdefault(f"Not by user ({{}}): {reason}.", []).append(column)
        for column, labels in self.single.items():
            where.setdefault(f"Not over seeds ({{}}): {listing(labels)} with one seed.", []).append(column)
        return [sentence.format(_names(columns)) for sentence, columns in where.items()]


def _names(columns: list[tuple[str, str]]) -> str:
    parts: dict[str, list[str]] = {}
    for dataset, metric in columns:
        parts.setdefault(dataset, []).append(metric)
    return "; ".join(f"{dataset}: {listing(metrics)}" for dataset, metrics in parts.items())


def compare_all(rows: Sequence[Row], mask: str, metrics: Sequence[str], step=lambda: None) -> Paired:
    """Test every metric on every dataset.

    Args:
        step: called after each test.
    """
    by_user, by_seed, reasons, single = {}, {}, {}, {}
    for dataset, here in datasets(rows).items():
        with_users = [row for row in here if row.has_users]
        several = [row for row in here if len(row.seeds) > 1]
        for metric in metrics:
            column = dataset, metric
            obstacle = _obstacle(here, mask, metric)
            if obstacle:
                reasons[column] = obstacle
                step()
                continue
            if len(with_users) < len(here):
                lacking = listing([row.label for row in here if not row.has_users]) if with_users else "any model"
                reasons[column] = f"there are no results per user of {lacking}"
            try:
                if len(with_users) > 1:
                    by_user[column] = over_users(_named(with_users), "", mask, metric)
            except UserError as error:
                reasons[column] = without_folders(error)
            family = over_seeds(_named(several), mask, metric) if len(several) > 1 else None
            if family is not None:
                by_seed[column] = family
                if len(several) < len(here):
                    single[column] = [row.label for row in here if len(row.seeds) == 1]
            step()
    return Paired(by_user, by_seed, reasons, single)


def _obstacle(rows: Sequence[Row], mask: str, metric: str) -> str | None:
    """Why nothing can be tested; None if something can."""
    if len(rows) < 2:
        return "there is only one model"
    lacking = [row.label for row in rows if len(row.test(mask, metric)) < len(row.records)]
    return f"{listing(lacking)} without {metric}" if lacking else None


def _named(rows: Sequence[Row]) -> list[Record]:
    return [record for row in rows for record in row.named()]
