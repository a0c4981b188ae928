"""What a search varies, and the folder that keeps its trials.

The folder is named after the model, the dataset and a key of everything else that the trials share (configuration,
seed, content of the data):

===============  ======================================================================================================
``trials.jsonl`` a :class:`~recbole_mambarec.experiments.store.Record` per trial, without test scores
``<key>.pth``    weights of the best trial
``chosen.jsonl`` the record of the best trial with its test scores: the test split is used for nothing else
``best.yaml``    configuration of the best trial, for ``--config_files``
``logs/``        output of each trial
``running/``     checkpoints of unfinished trials
===============  ======================================================================================================

A recorded trial is not repeated, whichever space it belonged to, unless it failed.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from recbole.config import Config

from recbole_mambarec import registry
from recbole_mambarec.config import no_command_line
from recbole_mambarec.config_keys import known_keys
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.plan import Run, resolve
from recbole_mambarec.experiments.space import Parameter, Space
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.renamed import accept
from recbole_mambarec.run_keys import NO_EFFECT, run_key

# keys that decide what is measured: scores under different values cannot be compared
_MEASURE = ("metrics", "topk", "valid_metric", "eval_args", "repeatable", "benchmark_filename", "val_interval")


def shipped_space(model: str) -> Path:
    """The params file that comes with ``model``, from this package or the one that brings the model.

    Raises:
        UserError: there is none, or that package cannot be imported.
    """
    path = registry.entry(model).search_space if model in registry.names() else None
    if path is None:
        have = ", ".join(sorted(name for name, entry in registry.entries().items() if entry.search_space is not None))
        raise UserError(f"no search space comes with {model}: name one with --params_file (there is one for {have})")
    return path


class Search:
    """A search and the records of its trials.

    Args:
        base: the run that the trials vary.
        space: the parameters that they vary.
        root: folder in which the search's folder is created.

    Raises:
        UserError: a parameter of the space is unknown, cannot be tuned, also has a fixed value, or has an option that
            the configuration refuses.
    """

    def __init__(self, base: Run, space: Space, root: str | Path = "tuning") -> None:
        self.base, self.space = base, _under_new_names(space, base.model)
        self.folder = Path(root) / f"{base.model}-{base.dataset}-{base.key[:8]}"
        self.metric = str(base.config["valid_metric"]).lower()
        self.bigger = bool(base.config["valid_metric_bigger"])
        self._check_space()

    def _check_space(self) -> None:
        with no_command_line():
            known = known_keys(Config(self.base.model, self.base.dataset, config_dict=dict(self.base.given)))
        for parameter in self.space.parameters:
            name = parameter.name
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
                raise UserError(
                    f"parameter '{name}' of the search space is no configuration key of {self.base.model}"
                    + (f": did you mean '{near[0]}'?" if near else ": remove its line")
                )
            if name in NO_EFFECT or name in _MEASURE:
                reason = "decides what is measured" if name in _MEASURE else "is not a setting of model or training"
                raise UserError(f"'{name}' cannot be tuned: it {reason}; remove its line from the search space")
            if name in self.base.given:
                raise UserError(f"{name} is both set and tuned: remove --{name}, or its line in the search space")
            for drawn in range(len(parameter.values)) if parameter.kind == "choice" else ():
                self.run({name: parameter.value(drawn)})

    def run(self, point: dict) -> Run:
        """The trial at a point."""
        base = self.base
        run = resolve(base.model, base.dataset, base.seed, base.given | point, label=describe(point), group="tuning")
        return replace(run, checkpoint_dir=str(self.folder / "running"))

    def weights(self, key: str) -> Path:
        """The file of the weights of the run with this key, kept while it is the best one."""
        return self.folder / f"{key[:16]}.pth"

    def log(self, key: str) -> Path:
        """The file of the output of the run with this key."""
        return self.folder / "logs" / f"{key[:16]}.log"

    @property
    def trials_file(self) -> Path:
        """The file with the records of all trials."""
        return self.folder / "trials.jsonl"

    @property
    def chosen_file(self) -> Path:
        """The file with the records of tested trials."""
        return self.folder / "chosen.jsonl"

    def recorded(self, stopped: bool = False) -> list[Record]:
        """Finished trials of earlier calls that lie in the space, in order; ``point`` has the space's parameters.

        Args:
            stopped: include trials that were stopped early.
        """
        found = {}
        for record in store.read(self.trials_file) if self.trials_file.is_file() else ():
            point = self._point(record)
            if point is None or not record.is_finished or (record.stopped and not stopped):
                continue
            found[identity(point)] = replace(record, point=point)
        return list(found.values())

    def _point(self, record: Record) -> dict | None:
        """The point of the space that a recorded trial stands for; None if it lies outside."""
        names = [parameter.name for parameter in self.space.parameters]
        config, tuned = self.base.config, record.point
        if any(tuned[name] != config.get(name) for name in tuned if name not in names):
            return None
        point = {name: tuned.get(name, config.get(name)) for name in names}
        try:
            for parameter in self.space.parameters:
                parameter.drawn(point[parameter.name])
        except (ValueError, TypeError):
            return None
        return point

    def better(self, score: float, than: float) -> bool:
        """Whether a score is better than another one."""
        return score > than if self.bigger else score < than


def _under_new_names(space: Space, model: str) -> Space:
    """The space with the names that the model's keys have today.

    Raises:
        UserError: a key is there under both names, or an option is no value of a renamed key.
    """
    parameters: list[Parameter] = []
    for parameter in space.parameters:
        settings = [accept(model, {parameter.name: value}) for value in parameter.values]
        ((name, _),) = settings[0].items()
        if any(name == other.name for other in parameters):
            raise UserError(f"{name} is in the search space twice, also under its old name: leave the old one out")
        parameters.append(Parameter(name, parameter.kind, tuple(setting[name] for setting in settings)))
    return Space(tuple(parameters))


def describe(point: dict) -> str:
    """``a=1, b=2``."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def identity(point: dict) -> str:
    """Equal for points that mean the same."""
    return run_key("", point, 0, "")
