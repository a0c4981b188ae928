"""The kinds of models in a table, and the order of its rows: by kind, and within a kind by the leading metric."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from recbole.utils import ModelType, get_model

from recbole_mambarec.errors import UserError
from recbole_mambarec.registry import entry, names
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import Row, datasets, mean
from recbole_mambarec.report.metrics import smaller_is_better
from recbole_mambarec.yaml_files import read_yaml_mapping

GENERAL, CLOSED_FORM, MULTIMODAL, FUSION = "General", "Closed form", "Multimodal", "Fusions of runs"
OWN = "This package's own"
#: in the order of a table
KINDS = (GENERAL, CLOSED_FORM, MULTIMODAL, OWN, FUSION)


def kind(row: Row) -> str:
    """The kind of a row: that of its model, unless it is a fusion."""
    return FUSION if row.records[0].fusion is not None else _kind_of(row.model)


@cache
def _kind_of(model: str) -> str:
    """A registered model is multimodal unless its defaults say that it reads no modality."""
    try:
        found = get_model(model)
        if getattr(found, "type", None) == ModelType.TRADITIONAL:
            return CLOSED_FORM
        if getattr(found, "own_design", False):
            return OWN
    except (ValueError, ImportError, UserError):
        return GENERAL  # recorded where another package was installed
    if model not in names():
        return GENERAL
    defaults = entry(model).defaults
    reads_none = defaults is not None and read_yaml_mapping(defaults).get("modalities") == []
    return GENERAL if reads_none else MULTIMODAL


def ordered(rows: Sequence[Row], mask: str, metric: str | None, by_kind: bool = True) -> list[Row]:
    """The rows by dataset, kind and score in ``metric``, best first; those without a score come last in their kind."""

    def place(row: Row) -> tuple:
        score = mean(row.test(mask, metric)) if metric else None
        sign = 1 if metric and smaller_is_better(metric) else -1
        return by_kind and KINDS.index(kind(row)), score is None, sign * (score or 0.0)

    return [row for here in datasets(rows).values() for row in sorted(here, key=place)]


def _has_closed_form(row: Row) -> bool:
    """Also where it is a part of a model: the linear view of ThreeViews."""
    return kind(row) == CLOSED_FORM or bool(row.records[0].config.get("linear_weight"))


def _is_timed(row: Row) -> bool:
    return all(record.curve and "computing_seconds" in record.curve[0] for record in row.records)


def untimed(rows: Sequence[Row]) -> str:
    """A sentence on the rows whose computation is in no recorded time, as in older records; "" if there are none."""
    labels = list(dict.fromkeys(row.label for row in rows if _has_closed_form(row) and not _is_timed(row)))
    built = "computed when it is built" if len(labels) == 1 else "computed when they are built"
    return f" {listing(labels)}: {built}, which is not in these times." if labels else ""
