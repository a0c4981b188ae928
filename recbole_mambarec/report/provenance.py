"""Where numbers come from: the commands that repeat the runs, versions, data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from recbole_mambarec.config import properties_folder
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.fusion import DEFAULT_NORMALISATION, DEFAULT_SEARCH, default_label
from recbole_mambarec.experiments.group import DEFAULT_RUNS, read_group
from recbole_mambarec.experiments.plan import DEFAULT_SEED
from recbole_mambarec.experiments.reevaluation import trained_key
from recbole_mambarec.experiments.search import shipped_space
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.experiments.store import TRAINED_WITH, Record
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import COMPARISON, Row, identity, varying
from recbole_mambarec.run_keys import neutral_values
from recbole_mambarec_command.command_line import MODULE

# libraries named in captions; the page lists all of them
_IN_CAPTIONS = ("recbole_mambarec", "recbole", "torch")


class Command(NamedTuple):
    """What rows made by one command have in common.

    Attributes:
        searched: whether it was a search.
        group: the group file, None if models were given or it was a search.
        label: what was added to the labels.
        seeds: the seeds of the runs.
        overrides: as JSON, without those of single lines of the group or single points of the search.
    """

    searched: bool
    group: str | None
    label: str | None
    seeds: tuple[int, ...]
    overrides: str


@dataclass(frozen=True)
class Provenance:
    """Commands in order, and the command that made each row.

    Attributes:
        commands: (name, command line), e.g. ``("C1", "python -m recbole_mambarec compare ...")``.
    """

    commands: list[tuple[str, str]]
    _of: dict[tuple, str] = field(repr=False)

    def of(self, rows: Sequence[Row]) -> str:
        """One line for the caption of a table or chart of these rows."""
        names = sorted({self._of[row.identity] for row in rows}, key=lambda name: int(name[1:]))
        fingerprints = [f"{name} {fingerprint[:12]}" for name, fingerprint in data(rows)]
        found = versions(rows)
        libraries = ", ".join(f"{name} {'/'.join(found[name])}" for name in _IN_CAPTIONS if name in found)
        return f"Command{'s' * (len(names) > 1)} {listing(names)}; data {listing(fingerprints)}; {libraries}."


def trace(rows: Sequence[Row]) -> Provenance:
    """Find the commands that made the rows."""
    made: dict[Command, dict[str, list[Row]]] = {}
    for row in rows:
        made.setdefault(_command(row, rows), {}).setdefault(row.records[0].dataset, []).append(row)
    commands: dict[str, list[Row]] = {}
    for command, by_dataset in made.items():
        # datasets with the same runs share a command
        alike: dict[tuple, list[str]] = {}
        for dataset, here in by_dataset.items():
            alike.setdefault(tuple((row.label, row.model) for row in here), []).append(dataset)
        for names in alike.values():
            here = [row for name in names for row in by_dataset[name]]
            commands.setdefault(_text(command, here, names), []).extend(here)
    named = [(f"C{number}", text) for number, text in enumerate(commands, start=1)]
    return Provenance(named, {row.identity: name for name, text in named for row in commands[text]})


def _command(row: Row, rows: Sequence[Row]) -> Command:
    first = row.records[0]
    if first.fusion is not None:
        return Command(False, None, first.label, tuple(row.seeds), json.dumps(_fuse_options(row)))
    if TRAINED_WITH in row.config:
        return Command(False, None, first.label, tuple(row.seeds), json.dumps(row.identity))
    searched, group, own = first.point is not None, None, set()
    if searched:
        own = set(first.point)
    elif row.group != COMPARISON:
        group = row.group
        here = [other.records[0].overrides for other in rows if other.group == group and other.dataset == row.dataset]
        own = _shipped(group) or set(varying(here))
    label = None
    if not searched and (group is None or _shipped(group)):
        # "BPR (paper)" was made by --label=paper
        label = (re.findall(r" \(([^()]*)\)$", first.label) or [None])[0]
    common = {key: value for key, value in first.overrides.items() if key not in own}
    return Command(searched, group, label, tuple(row.seeds), json.dumps(common, sort_keys=True))


def _shipped(group: str) -> set[str]:
    """The keys that the lines of a group file change, if the file comes with the package; else nothing."""
    if not (properties_folder() / "group" / f"{group}.yaml").is_file():
        return set()
    return {key for _, overrides in read_group(group)[1].values() for key in overrides}


def _text(command: Command, rows: Sequence[Row], datasets: list[str]) -> str:
    """The command line and, below it, the group file if that does not come with this package."""
    if rows[0].records[0].fusion is not None:
        options = [f"--{key}={value}" for key, value in json.loads(command.overrides).items()]
        return "\n".join(f"{MODULE} {shlex.join(['fuse', *options, f'--dataset={name}'])}" for name in datasets)
    if TRAINED_WITH in rows[0].config:
        return _evaluation(rows)
    models = ",".join(dict.fromkeys(row.model for row in rows))
    shipped = command.group is not None and bool(_shipped(command.group))
    if command.searched:
        parts = ["tune", f"--model={models}"]
    elif command.group is None:
        parts = ["compare", f"--models={models}"]
    else:
        parts = ["compare", f"--group={command.group}{'' if shipped else '.yaml'}"]
    parts.append(f"--dataset{'s' * (len(datasets) > 1)}={','.join(datasets)}")
    if command.label is not None:
        parts.append(f"--label={command.label}")
    if command.searched and command.seeds != (DEFAULT_SEED,):
        parts.append(f"--seed={command.seeds[0]}")
    elif command.seeds != (DEFAULT_SEED,):
        # a comma turns a single seed into a list
        parts.append(f"--seeds={','.join(map(str, command.seeds))}{',' * (len(command.seeds) == 1)}")
    common = json.loads(command.overrides)
    parts += [f"--{key}={value}" for key, value in common.items()]
    line = f"{MODULE} {shlex.join(parts)}"
    if command.searched:
        return line + _space(rows)
    if command.group is None or shipped:
        return line
    lines = {
        row.label: {"model": row.model} | {k: v for k, v in row.records[0].overrides.items() if k not in common}
        for row in rows
    }
    text = "".join(f"\n#   {_inline(label)}: {_inline(own)}" for label, own in lines.items())
    return f"{line}\n# {command.group}.yaml:\n# runs:{text}"


def _fuse_options(row: Row) -> dict:
    """The options of ``fuse`` that made a row, except for the dataset and those with their defaults."""
    config, how = row.config, row.records[0].fusion or {}
    labels = [part["label"] for part in how["parts"]]
    options = {"models": ",".join(labels)}
    if "part_seeds" not in config:
        options["seeds"] = ",".join(map(str, row.seeds))
    if row.records[0].label != default_label(labels):
        options["label"] = row.records[0].label
    if "weights" in config:
        options["weights"] = ",".join(f"{weight:g}" for weight in config["weights"])
    elif how["search"] != DEFAULT_SEARCH:
        options["search"] = how["search"]
    if how["normalisation"] != DEFAULT_NORMALISATION:
        options["normalisation"] = how["normalisation"]
    if "weights" not in config and how["metric"] != row.metric:
        options["metric"] = how["metric"]
    return options


def _evaluation(rows: Sequence[Row]) -> str:
    """The command lines that train a model, and that evaluate it with other values."""
    first = rows[0].records[0]
    before = rows[0].config[TRAINED_WITH]
    given = {key: value for key, value in first.overrides.items() if key not in before}
    usual = {key: value for key, value in before.items() if (key, value) not in neutral_values(first.model).items()}
    training = ["compare", f"--models={first.model}", f"--dataset={first.dataset}"]
    training.append(f"--seeds={','.join(map(str, rows[0].seeds))}{',' * (len(rows[0].seeds) == 1)}")
    training += [f"--{key}={value}" for key, value in (given | usual).items()]
    files = [_checkpoint(record) for row in rows for record in row.records]
    values = [f"--{key}={value}" for key, value in _evaluate_options(rows[0]).items()]
    evaluation = ["evaluate", *files, *values, f"--runs={DEFAULT_RUNS}"]
    return "\n".join(f"{MODULE} {shlex.join(parts)}" for parts in (training, evaluation))


def _evaluate_options(row: Row) -> dict:
    """The values with which ``evaluate`` has made a row."""
    values = {key: row.config[key] for key in row.config[TRAINED_WITH]}
    return {key: ",".join(value) if isinstance(value, list) else value for key, value in values.items()}


def _checkpoint(record: Record) -> str:
    """The file that the evaluated run has written in its default folder."""
    key = trained_key(record.model, record.config, record.seed, record.data_hash)
    return f"saved/{record.model}-{key[:16]}.pth"


def _space(rows: Sequence[Row]) -> str:
    """The values that were tried, if they are not in the model's own search space; records only have the points."""
    tried: dict[str, dict[str, object]] = {}
    for record in (record for row in rows for record in row.records):
        for key, value in record.point.items():
            tried.setdefault(key, {})[identity({"": value})] = value
    try:
        parameters = read_space(shipped_space(rows[0].model)).parameters
    except UserError:
        parameters = ()
    shipped = {each.name: {identity({"": value}) for value in each.values} for each in parameters}
    if all(values.keys() <= shipped.get(key, set()) for key, values in tried.items()):
        return ""
    lines = "".join(f"\n#   {key}: {', '.join(map(_inline, values.values()))}" for key, values in tried.items())
    return f"\n# with --params_file and --algo, which were not recorded; the values tried were{lines}"


def _inline(value: object) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def versions(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Library -> the versions that the runs were made with."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for record in row.records:
            for name, version in record.versions.items():
                found.setdefault(name, set()).add(str(version))
    return {name: sorted(values) for name, values in found.items()}


def revisions(rows: Sequence[Row]) -> list[str]:
    """Git revisions of this package that the runs were made with."""
    states = [record.git for row in rows for record in row.records if record.git]
    return sorted({f"{state['revision'][:12]}{' with changes' * bool(state['dirty'])}" for state in states})


def data(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The (dataset, fingerprint) pairs of the rows."""
    return list(dict.fromkeys((r.dataset, r.data_hash) for row in rows for r in row.records))
