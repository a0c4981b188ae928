"""Which finished runs are fused: the best of each model on validation, and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.store import Record


@dataclass(frozen=True)
class Part:
    """A finished run: its checkpoint and, if there is one, its record."""

    checkpoint: Path
    record: Record | None = None


def choose(
    records: Sequence[Record], names: Sequence[str], dataset: str, folder: str | Path = "saved", seed: int | None = None
) -> list[Part]:
    """The finished run of each model or label that is the best on validation, with its checkpoint.

    Args:
        records: of a file of runs.
        names: labels, or models.
        folder: has the checkpoints.
        seed: only runs with this seed.

    Raises:
        UserError: there is no such run, or no checkpoint of it.
    """
    runs = _runs(records)
    here = [r for r in runs if r.dataset == dataset]
    if not here:
        have = ", ".join(sorted({r.dataset for r in runs})) or "none"
        raise UserError(f"there are no finished runs on '{dataset}' in these records (datasets: {have})")
    if len(set(names)) < len(names):
        raise UserError(f"a run cannot be fused with itself: {', '.join(names)} names one of them twice")
    parts = []
    for name in names:
        found = [r for r in _named(here, name) if seed in (None, r.seed)]
        if not found:
            have = ", ".join(sorted({r.label for r in here}))
            which = "" if seed is None else f" with seed {seed}"
            raise UserError(f"there is no run of '{name}' on '{dataset}'{which} in these records: they have {have}")
        best = max(found, key=_validation)
        checkpoint = Path(folder) / f"{best.model}-{best.key[:16]}.pth"
        if not checkpoint.is_file():
            raise UserError(
                f"the checkpoint of {best.label}, seed {best.seed}, is missing: there is no file {checkpoint} "
                "(--checkpoint_dir names another folder)"
            )
        parts.append(Part(checkpoint, best))
    return parts


def common_seeds(records: Sequence[Record], names: Sequence[str], dataset: str) -> list[int]:
    """The seeds with which there are finished runs of all names, in ascending order.

    Raises:
        UserError: there are none.
    """
    here = [r for r in _runs(records) if r.dataset == dataset]
    seeds = [{r.seed for r in _named(here, name)} for name in names]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if not common:
        raise UserError(f"{', '.join(names)} have no seed in common on '{dataset}': run them with the same seeds")
    return common


def _runs(records: Sequence[Record]) -> list[Record]:
    return [r for r in store.latest(list(records)) if r.is_finished and r.kind == "run"]


def _named(records: Sequence[Record], name: str) -> list[Record]:
    """Those with this label; if there are none, those of this model."""
    return [r for r in records if r.label == name] or [r for r in records if r.model == name]


def _validation(record: Record) -> float:
    value = record.valid.get(str(record.config.get("valid_metric", "")).lower())
    sign = 1 if record.config.get("valid_metric_bigger", True) else -1
    return -math.inf if value is None else sign * value
