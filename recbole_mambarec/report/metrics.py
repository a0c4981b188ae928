"""Which of RecBole's metrics measure accuracy, and which are better when smaller."""

from __future__ import annotations

from collections.abc import Sequence

from recbole.evaluator import smaller_metrics
from recbole.evaluator.register import metrics_dict

from recbole_mambarec.errors import UserError
from recbole_mambarec.report.load import Row


def base(metric: str) -> str:
    """``recall`` of ``recall@20``."""
    return metric.partition("@")[0]


def smaller_is_better(metric: str) -> bool:
    return base(metric) in smaller_metrics


def is_accuracy(metric: str) -> bool:
    """Whether it measures hits, rather than properties of the lists as such (coverage, popularity, ...)."""
    return "rec.items" not in getattr(metrics_dict.get(base(metric)), "metric_need", ())


def recorded(rows: Sequence[Row], mask: str) -> tuple[list[str], list[str]]:
    """(accuracy metrics, other metrics) among the test scores of the rows, in order."""
    names = dict.fromkeys(
        name
        for row in rows
        for record in row.records
        for name, value in record.test.get(mask, {}).items()
        if value is not None
    )
    return [name for name in names if is_accuracy(name)], [name for name in names if not is_accuracy(name)]


def choose(rows: Sequence[Row], mask: str, wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """:func:`recorded`, limited to the metrics that a user has named.

    Raises:
        UserError: no record has one of them.
    """
    have = recorded(rows, mask)
    if wanted is None:
        return have
    for name in wanted:
        if name not in have[0] + have[1]:
            raise UserError(f"no record has the metric '{name}': they have {', '.join(have[0] + have[1]) or 'none'}")
    return [name for name in wanted if name in have[0]], [name for name in wanted if name in have[1]]


def leading(rows: Sequence[Row], metrics: Sequence[str]) -> str | None:
    """The metric for charts: the one by which epochs were chosen, if it was recorded, else the first."""
    return next((row.metric for row in rows if row.metric in metrics), metrics[0] if metrics else None)
