"""Records of runs as rows of tables: one per label, configuration and dataset, with all its seeds."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.store import TRAINED_WITH, Record
from recbole_mambarec.run_keys import neutral_values, run_key

# the group of runs whose models were given on the command line
COMPARISON = "comparison"
# largest number of keys in a name that distinguishes rows of one label
_MOST_KEYS = 3


@dataclass(frozen=True)
class Row:
    """Finished runs that differ in nothing but their seed.

    Attributes:
        label: the name of the row, unique within its dataset.
        dataset: the name of the dataset, with part of its fingerprint if the records have several of that name, and
            with what was ranked if that was a part of the catalogue, whose scores are no others' to compare with.
        group: the first group under which it was recorded.
        records: one per seed, in ascending order (see :class:`~recbole_mambarec.experiments.store.Record`).
    """

    label: str
    model: str
    dataset: str
    group: str
    config: dict
    records: tuple[Record, ...] = field(repr=False)

    @property
    def recorded_label(self) -> str:
        """The label of its records, which rows of other configurations may share."""
        return self.records[0].label

    @property
    def seeds(self) -> list[int]:
        return [record.seed for record in self.records]

    @property
    def has_users(self) -> bool:
        """Whether all of its runs have results per user."""
        return all(record.per_user is not None for record in self.records)

    def test(self, mask: str, metric: str) -> list[float]:
        """The test score of each seed that has it."""
        return _numbers(record.test.get(mask, {}).get(metric) for record in self.records)

    def valid(self, metric: str) -> list[float]:
        """The validation score of each seed that has it."""
        return _numbers(record.valid.get(metric) for record in self.records)

    def field(self, name: str) -> list[float]:
        """A number in the record (``seconds``, ``epochs``, ...) of each seed that has it."""
        return _numbers(getattr(record, name) for record in self.records)

    @property
    def metric(self) -> str:
        """The validation metric by which epochs were chosen, as it is called among the scores."""
        return str(self.config.get("valid_metric", "")).lower()

    def only(self, seeds: Iterable[int]) -> Row:
        """The same row with only these seeds, or with all of its own if it has none of them."""
        return replace(self, records=tuple(r for r in self.records if r.seed in seeds) or self.records)

    @property
    def identity(self) -> tuple[str, ...]:
        """What distinguishes it from other rows."""
        return self.dataset, self.group, self.label, identity(self.config)

    def named(self) -> list[Record]:
        """The records with the label of the row, by which functions over records distinguish them."""
        return [replace(record, label=self.label) for record in self.records]


def mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def _numbers(values: Iterable) -> list[float]:
    return [value for value in values if value is not None]


@dataclass(frozen=True)
class Runs:
    """The content of files of runs.

    Attributes:
        finished, failed: records; a run that failed first and finished later is finished.
    """

    finished: list[Record]
    failed: list[Record]

    def comparison(self, group: str | None = None) -> list[Row]:
        """Rows of the main table: those of ``group``, or of all groups that compare models.

        Raises:
            UserError: there is no such group.
        """
        groups = self._groups()
        if group is not None and group not in groups:
            have = ", ".join(groups) or "only searches"
            raise UserError(f"there is no group '{group}' in these records: there are {have}")
        chosen = [group] if group is not None else [name for name in groups if not _is_ablation(groups[name])]
        return rows([record for name in chosen for record in groups[name]])

    def ablations(self) -> dict[str, list[Row]]:
        """The rows of each group that consists of variants of one model."""
        return {name: rows(records) for name, records in self._groups().items() if _is_ablation(records)}

    @property
    def trials(self) -> list[Record]:
        """Finished records of hyper-parameter searches."""
        return [record for record in self.finished if record.point is not None]

    def of(self, datasets: Sequence[str]) -> Runs:
        """The runs on these datasets.

        Raises:
            UserError: there are none on one of them.
        """
        have = {record.dataset for record in [*self.finished, *self.failed]}
        for name in datasets:
            if name not in have:
                raise UserError(f"there are no runs on '{name}' in these records: there are some on {_and(have)}")
        return Runs(*([r for r in part if r.dataset in datasets] for part in (self.finished, self.failed)))

    def _groups(self) -> dict[str, list[Record]]:
        groups: dict[str, list[Record]] = {}
        for record in self.finished:
            if record.point is None:
                groups.setdefault(record.group, []).append(record)
        return groups


def _and(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _is_ablation(records: list[Record]) -> bool:
    if records[0].group == COMPARISON:
        return False
    return len({r.model for r in records}) == 1 and len({r.label for r in records}) > 1


def read(paths: Sequence[str | Path]) -> Runs:
    """Records of one or several files, with ``per_user`` relative to the working folder.

    Raises:
        UserError: a file is missing or not a file of runs, or none of its runs has finished.
    """
    records = []
    for path in paths:
        for number, record in enumerate(store.read(path), start=1):
            fault = _fault(record)
            if fault:
                raise UserError(f"record {number} of {path} ({record.label}) is damaged: {fault}; delete its line")
            if record.per_user is not None:
                record = replace(record, per_user=str(Path(path).parent / record.per_user))
            records.append(record)
    latest = [_completed(record, records) for record in store.latest(records)]
    runs = Runs([r for r in latest if r.is_finished], [r for r in latest if not r.is_finished])
    if not runs.finished:
        names, failed = ", ".join(map(str, paths)), len(runs.failed)
        raise UserError(f"there is no finished run in {names} ({failed} failed): nothing can be reported")
    return runs


def _completed(record: Record, records: list[Record]) -> Record:
    """The record, completed by what only other records of the same run have.

    The chosen trial of a search is in two files, in one as a trial and in the other with its test scores; and a run may
    have been tested again for results per user.
    """
    if not record.is_finished:
        return record
    name = attrgetter("key", "group", "label", "status")
    values = vars(record)
    for other in reversed([other for other in records if name(other) == name(record)]):
        values = values | {name: value for name, value in vars(other).items() if values[name] in (None, {}, [])}
    return Record(**values)


def _fault(record: Record) -> str | None:
    """What cannot be shown in the parts of a record that its format does not fix; None if all can."""
    parts = {"valid": record.valid, **{f"test under '{mask}'": part for mask, part in record.test.items()}}
    for name, part in parts.items():
        if not isinstance(part, dict) or not all(
            value is None or (isinstance(value, (int, float)) and math.isfinite(value)) for value in part.values()
        ):
            return f"its scores ({name}) are not numbers"
    for entry in record.curve:
        if (
            not isinstance(entry, dict)
            or "epoch" not in entry
            or not isinstance(entry.get("valid"), (dict, type(None)))
        ):
            return "an entry of its curve is invalid"
    return None


def without_folders(error: UserError) -> str:
    """The message without the folders of this machine."""
    return re.sub(r"\S*/(?=per_user/)", "", str(error))


def rows(records: Sequence[Record]) -> list[Row]:
    """Finished records as rows, in order of first appearance."""
    hashes: dict[str, set[str]] = {}
    for record in records:
        hashes.setdefault(record.dataset, set()).add(record.data_hash)
    made: dict[tuple, dict[int, Record]] = {}
    for record in records:
        dataset = record.dataset
        if len(hashes[dataset]) > 1:
            dataset += f" (data {record.data_hash[:8]})"
        if record.config.get("rank_items") == "new":
            dataset += ", new items alone"
        configuration = run_key(record.model, record.config, 0, record.data_hash)
        made.setdefault((dataset, record.label, configuration), {})[record.seed] = record
    found = []
    for (dataset, label, _), seeds in made.items():
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        first = ordered[0]
        # a key that did not exist yet, or is unset, has the value under which it changes nothing
        neutral = neutral_values(first.model)
        config = neutral | {k: value for k, value in first.config.items() if value is not None or k not in neutral}
        found.append(Row(label, first.model, dataset, first.group, config, ordered))
    return _with_unique_labels(found)


def _with_unique_labels(found: list[Row]) -> list[Row]:
    """Rows of the same dataset and label get labels with the keys in which they differ."""
    alike = _namesakes(found)
    return [
        replace(row, label=f"{row.label} ({_distinction(row, namesakes)})")
        if len(namesakes := alike[row.dataset, row.recorded_label]) > 1
        else row
        for row in found
    ]


def _namesakes(found: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """(dataset, recorded label) -> its rows, one per configuration."""
    alike: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        alike.setdefault((row.dataset, row.recorded_label), []).append(row)
    return alike


def chosen_by_validation(found: Sequence[Row], metric: str, smaller: bool) -> tuple[list[Row], list[str]]:
    """One row for each label of a dataset, the one of the best mean validation score, and a sentence on each choice.

    Args:
        metric: the validation metric; rows without it are chosen only where none has it.
        smaller: whether a smaller score is better.
    """

    def score(row: Row) -> float:
        value = mean(row.valid(metric))
        return -math.inf if value is None else -value if smaller else value

    chosen, notes = [], []
    for (dataset, label), namesakes in _namesakes(found).items():
        best = max(namesakes, key=score)
        chosen.append(replace(best, label=label))
        if len(namesakes) > 1:
            which = best.label.removeprefix(f"{label} (").removesuffix(")")
            notes.append(
                f"{label} on {dataset}: {which}, the best of {len(namesakes)} configurations by validation {metric}; "
                "--variants shows all."
            )
    return chosen, notes


def _distinction(row: Row, namesakes: list[Row]) -> str:
    keys = varying([each.config for each in namesakes])
    # what a model was trained with matters only if it is evaluated alike otherwise
    others = [key for key in keys if key != TRAINED_WITH]
    if len({identity({key: each.config.get(key) for key in others}) for each in namesakes}) == len(namesakes):
        keys = others
    if not 0 < len(keys) <= _MOST_KEYS:
        return f"configuration {run_key(row.model, row.config, 0, '')[:6]}"
    return ", ".join(f"{key}={text(row.config.get(key))}" for key in keys)


def varying(configs: Sequence[dict]) -> list[str]:
    """The keys in which configurations differ and that can change a result."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({identity({key: config.get(key)}) for config in configs}) > 1]


def identity(config: dict) -> str:
    """A text that is the same for configurations with the same meaning."""
    return run_key("", config, 0, "")


def text(value: object) -> str:
    """A configuration value in a few characters."""
    if value is None:
        return "unset"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def datasets(found: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by dataset, in order."""
    parts: dict[str, list[Row]] = {}
    for row in found:
        parts.setdefault(row.dataset, []).append(row)
    return parts
