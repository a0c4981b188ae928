"""Where numbers come from: commands that make the runs again, versions, data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from recbole_mambarec.config import properties_folder
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.group import read_group
from recbole_mambarec.experiments.run import DEFAULT_SEED
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import Row

# libraries that a caption names; the page lists all
_IN_CAPTIONS = ("recbole_mambarec", "recbole", "torch")


@dataclass(frozen=True)
class Provenance:
    """Commands in order, and by which one each row was made.

    Attributes:
        commands: (name, command line), e.g. ``("C1", "python run_recbole_group.py ...")``.
        rows: all rows of the report.
    """

    commands: list[tuple[str, str]]
    rows: list[Row]
    _of: dict[int, str] = field(repr=False)

    def of(self, rows: Sequence[Row]) -> str:
        """One line for the caption of what is made of these rows."""
        names = sorted({self._of[id(row)] for row in rows}, key=lambda name: int(name[1:]))
        data = dict.fromkeys(f"{row.records[0]['dataset']} {row.records[0]['data_hash'][:12]}" for row in rows)
        found = versions(rows)
        libraries = ", ".join(f"{name} {'/'.join(found[name])}" for name in _IN_CAPTIONS if name in found)
        return f"Command{'s' * (len(names) > 1)} {', '.join(names)}; data {listing(list(data))}; {libraries}."


def trace(rows: Sequence[Row]) -> Provenance:
    """Find the commands; rows of one command share it."""
    lines: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        lines.setdefault(_what(row), {}).setdefault(row.records[0]["dataset"], []).append(row)
    commands: dict[str, list[Row]] = {}
    for what, by_dataset in lines.items():
        # datasets on which the same models were run share a command
        alike: dict[tuple[str, ...], list[str]] = {}
        for dataset, here in by_dataset.items():
            alike.setdefault(tuple(dict.fromkeys(row.model for row in here)), []).append(dataset)
        for models, names in alike.items():
            made = [row for name in names for row in by_dataset[name]]
            commands.setdefault(_command_line(what, models, names), []).extend(made)
    named = [(f"C{number}", line) for number, line in enumerate(commands, start=1)]
    of = {id(row): name for (name, line) in named for row in commands[line]}
    return Provenance(named, list(rows), of)


def _what(row: Row) -> tuple:
    """What rows of one command have in common: the script, its fixed part, seeds, overrides as JSON."""
    first = row.records[0]
    overrides = dict(first["overrides"])
    if "point" in first:
        kept = {key: value for key, value in overrides.items() if key not in first["point"]}
        return "run_hyper.py", None, tuple(row.seeds), json.dumps(kept, sort_keys=True)
    group, own = None, _shipped(first["group"]).get(first["label"])
    if own is not None:
        group = first["group"]
        overrides = {key: value for key, value in overrides.items() if key not in own}
    return "run_recbole_group.py", group, tuple(row.seeds), json.dumps(overrides, sort_keys=True)


def _shipped(group: str) -> dict[str, dict]:
    """Label -> overrides of a group file that comes with this package, if this group was made from one."""
    if not (properties_folder() / "group" / f"{group}.yaml").is_file():
        return {}
    try:
        return {label: overrides for label, (_, overrides) in read_group(group)[1].items()}
    except UserError:
        return {}


def _command_line(what: tuple, models: tuple[str, ...], datasets: list[str]) -> str:
    script, group, seeds, overrides = what
    several = script != "run_hyper.py"
    parts = [f"--group={group}" if group else f"--model{'s' * several}={','.join(models)}"]
    parts.append(f"--dataset{'s' * (len(datasets) > 1)}={','.join(datasets)}")
    if seeds != (DEFAULT_SEED,):
        # one seed alone needs the comma that makes it a list
        parts.append(f"--seeds={','.join(map(str, seeds))}{',' * (len(seeds) == 1)}" if several else f"--seed={seeds[0]}")
    parts += [f"--{key}={_value(value)}" for key, value in json.loads(overrides).items()]
    return shlex.join(["python", script, *parts])


def _value(value: object) -> str:
    """As RecBole reads it on a command line."""
    return value if isinstance(value, str) else repr(value)


def versions(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Library -> the versions that the runs were made with."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for record in row.records:
            for name, version in record["versions"].items():
                found.setdefault(name, {})[str(version)] = None
    return {name: sorted(values) for name, values in found.items()}


def revisions(rows: Sequence[Row]) -> list[str]:
    """Git revisions of this package that the runs were made with."""
    states = [record["git"] for row in rows for record in row.records if record["git"]]
    return sorted({f"{state['revision'][:12]}{' with changes' * bool(state['dirty'])}" for state in states})


def data(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(dataset, its fingerprint)."""
    records = [record for row in rows for record in row.records]
    return list(dict.fromkeys((record["dataset"], record["data_hash"]) for record in records))
