"""How long runs took to reach a share of the validation score that was chosen."""

from __future__ import annotations

from recbole_mambarec.experiments.store import Record
from recbole_mambarec.report.load import Row, mean
from recbole_mambarec.report.metrics import smaller_is_better


def minutes_to(row: Row, share: float) -> float | None:
    """Minutes of training and validation until the first score that is ``share`` of the best, mean over seeds.

    None if a record has no curve, or no times in it.
    """
    found = [_minutes(record, row.metric, share) for record in row.records]
    return None if None in found else mean([minutes for minutes in found if minutes is not None])


def _minutes(record: Record, metric: str, share: float) -> float | None:
    sign = -1 if smaller_is_better(metric) else 1
    scores = [(entry["valid"] or {}).get(metric) for entry in record.curve]
    best = max((sign * score for score in scores if score is not None), default=None)
    if best is None:
        return None
    # of a score that is better when smaller, 95 % is a twentieth more than the best
    wanted = best * share if sign > 0 else best / share
    seconds = 0.0
    for entry, score in zip(record.curve, scores):
        spent = entry.get("train_seconds"), entry.get("valid_seconds")
        if None in spent:
            return None
        seconds += sum(spent)
        if score is not None and sign * score >= wanted:
            return seconds / 60
    return None
