"""Runs of one model that differ in a few hyper-parameters: the trials of a search, or grids found among other runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

from recbole_mambarec.experiments.store import TRAINED_WITH, Record
from recbole_mambarec.report.document import slug
from recbole_mambarec.report.load import Row, identity, mean, rows, varying

# with more varying keys, only grids over at most two of them are searched
_MOST_KEYS = 5
# share of the combinations of values that makes a grid
_FILLED = 0.6
_FEWEST = 3
# the number of epochs is a budget: runs with different budgets are not compared
_BUDGET = ("epochs",)


@dataclass(frozen=True)
class Point:
    """Values of the keys, in their order, and the runs with them; of common seeds of all points, if there are any."""

    values: tuple
    row: Row


@dataclass(frozen=True)
class Sweep:
    """Points that differ in ``keys`` and nothing else.

    Attributes:
        searched: whether it is a search for hyper-parameters, rather than a grid among other runs.
        stopped: number of trials that were stopped early and have no point.
    """

    model: str
    dataset: str
    keys: tuple[str, ...]
    points: list[Point] = field(repr=False)
    searched: bool = False
    stopped: int = 0

    def options(self, number: int) -> list:
        """The values of a key, in ascending order if they are numbers."""
        values = list({identity({"": point.values[number]}): point.values[number] for point in self.points}.values())
        return sorted(values) if all(map(_is_number, values)) else values

    @property
    def name(self) -> str:
        """A name for links and files."""
        return "-".join(["sweep", *map(slug, (self.model, self.dataset, *self.keys))])

    @property
    def metric(self) -> str:
        return self.points[0].row.metric

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.points[0].row.config.get("valid_metric_bigger", True) else -1

    @property
    def chosen(self) -> Point | None:
        """The point with the best validation score, the first one among equals."""
        return self._best(lambda row: row.valid(self.metric))

    def best_on_test(self, mask: str) -> Point | None:
        """The point with the best test score; None if some point was not tested."""
        if not all(point.row.test(mask, self.metric) for point in self.points):
            return None
        return self._best(lambda row: row.test(mask, self.metric))

    def _best(self, scores) -> Point | None:
        scored = [point for point in self.points if scores(point.row)]
        return max(scored, key=lambda point: self.sign * mean(scores(point.row)), default=None)


def find(found: Sequence[Row], trials: Sequence[Record]) -> list[Sweep]:
    """Searches among ``trials`` and grids among the rows."""
    return [*_searches(trials), *_grids(found)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _without(config: dict, keys: Sequence[str]) -> str:
    return identity({key: value for key, value in config.items() if key not in (*keys, TRAINED_WITH)})


def _searches(trials: Sequence[Record]) -> list[Sweep]:
    parts: dict[tuple, list[Record]] = {}
    for record in trials:
        keys = tuple(record.point)
        same = record.dataset, record.data_hash, record.model, keys, _without(record.config, keys)
        parts.setdefault(same, []).append(record)
    sweeps = []
    for (*_, model, keys, _), records in parts.items():
        whole = [record for record in records if not record.stopped]
        varied = [key for key in keys if len({identity({key: record.point[key]}) for record in whole}) > 1]
        if not varied:
            continue
        point_of = {record.key: record.point for record in whole}
        points = []
        for row in rows(whole):
            point = point_of[row.records[0].key]
            points.append(Point(tuple(point[key] for key in varied), row))
        stopped = len(records) - len(whole)
        sweeps.append(Sweep(model, points[0].row.dataset, tuple(varied), points, True, stopped))
    return sweeps


def _grids(found: Sequence[Row]) -> list[Sweep]:
    parts: dict[tuple[str, str], dict[str, Row]] = {}
    for row in found:
        # a configuration may occur under several labels
        parts.setdefault((row.dataset, row.model), {}).setdefault(identity(row.config), row)
    sweeps = []
    for (dataset, model), unique in parts.items():
        candidates = list(unique.values())
        keys = [
            key
            for key in varying([row.config for row in candidates])
            if key not in _BUDGET
            and len({row.config[key] for row in candidates if _is_number(row.config.get(key))}) > 1
        ]
        taken: list[set[int]] = []
        for size in range(min(len(keys), len(keys) if len(keys) <= _MOST_KEYS else 2), 0, -1):
            for chosen in combinations(keys, size):
                for members in _classes(candidates, chosen):
                    here = {id(row) for row in members}
                    if any(here <= larger for larger in taken):
                        continue
                    taken.append(here)
                    common = set.intersection(*(set(row.seeds) for row in members))
                    points = [Point(tuple(row.config[key] for key in chosen), row.only(common)) for row in members]
                    sweeps.append(Sweep(model, dataset, chosen, points))
    return sweeps


def _classes(candidates: list[Row], keys: tuple[str, ...]) -> list[list[Row]]:
    """Groups of rows that differ only in ``keys`` and fill enough of a grid over them."""
    alike: dict[str, list[Row]] = {}
    for row in candidates:
        if all(_is_number(row.config.get(key)) for key in keys):
            alike.setdefault(_without(row.config, keys), []).append(row)
    parts = (_crossed(members, keys) if len(keys) > 1 else members for members in alike.values())
    return [members for members in parts if _is_grid(members, keys)]


def _crossed(members: list[Row], keys: tuple[str, ...]) -> list[Row]:
    """Rows each of whose values occurs in another row, too; the others are single changes beside a grid."""
    while True:
        counts = [Counter(row.config[key] for row in members) for key in keys]
        kept = [row for row in members if all(count[row.config[key]] > 1 for key, count in zip(keys, counts))]
        if len(kept) == len(members):
            return kept
        members = kept


def _is_grid(members: list[Row], keys: tuple[str, ...]) -> bool:
    sizes = [len({row.config[key] for row in members}) for key in keys]
    return min(sizes) > 1 and len(members) >= max(_FEWEST, _FILLED * prod(sizes))
