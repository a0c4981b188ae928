"""What is searched, and what is on record of it.

A search has a folder, named after its model, its dataset and a key of all else that its trials share (configuration,
seed, content of the data):

===============  ======================================================================================================
``trials.jsonl`` one record per trial (:mod:`~recbole_mambarec.experiments.store`, without test scores) with
                 ``point`` (what was tuned), ``score`` (of the validation metric), ``stopped`` (given up early),
                 ``memory_gib`` and ``wall_seconds``
``<key>.pth``    weights of the best trial
``chosen.jsonl`` the record of the best trial with its test scores: the only place where the test split is looked at
``best.yaml``    its configuration, for ``--config_files``
``logs/``        what each trial has printed
``running/``     checkpoints of unfinished trials
===============  ======================================================================================================

A trial that is on record is not made again, whichever space it was found through; one that failed is.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from recbole.config import Config

from recbole_mambarec import registry
from recbole_mambarec.cli import no_command_line
from recbole_mambarec.config import known_keys
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.run import Run, resolve
from recbole_mambarec.experiments.space import Space
from recbole_mambarec.run_keys import NO_EFFECT, run_key

# what is measured: scores under different values cannot be compared
_MEASURE = ("metrics", "topk", "valid_metric", "eval_args", "repeatable", "benchmark_filename", "val_interval")


def shipped_space(model: str) -> Path:
    """The params file that comes with ``model``, from this package or the one that brings the model.

    Raises:
        UserError: there is none, or that package cannot be imported.
    """
    path = registry.entry(model).search_space if model in registry.names() else None
    if path is None:
        have = ", ".join(sorted(name for name, entry in registry.entries().items() if entry.search_space is not None))
        raise UserError(f"no search space comes with {model}: name one with --params_file (there are those of {have})")
    return path


class Search:
    """What is searched, and the record of what has been tried.

    Args:
        base: the run that the trials vary.
        space: what they vary.
        root: where the search's folder is made.

    Raises:
        UserError: a parameter of the space is unknown, cannot be tuned, was given a fixed value as well, or has an
            option that the configuration refuses.
    """

    def __init__(self, base: Run, space: Space, root: str | Path = "tuning") -> None:
        self.base, self.space = base, space
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
                why = "decides what is measured" if name in _MEASURE else "is no setting of the model or its training"
                raise UserError(f"'{name}' cannot be tuned: it {why}; remove its line from the search space")
            if name in self.base.overrides:
                raise UserError(f"{name} is given and tuned: leave --{name} out, or its line in the search space")
            for drawn in range(len(parameter.values)) if parameter.kind == "choice" else ():
                self.run({name: parameter.value(drawn)})

    def run(self, point: dict) -> Run:
        """The trial at a point."""
        base = self.base
        run = resolve(base.model, base.dataset, base.seed, base.given | point, label=describe(point), group="tuning")
        return replace(run, checkpoint_dir=str(self.folder / "running"))

    def weights(self, key: str) -> Path:
        """Where the weights of the run with this key are kept while it is the best."""
        return self.folder / f"{key[:16]}.pth"

    def log(self, key: str) -> Path:
        """What the run with this key has printed."""
        return self.folder / "logs" / f"{key[:16]}.log"

    @property
    def trials_file(self) -> Path:
        """The record of all trials."""
        return self.folder / "trials.jsonl"

    @property
    def chosen_file(self) -> Path:
        """The record of tested ones."""
        return self.folder / "chosen.jsonl"

    def recorded(self, stopped: bool = False) -> list[dict]:
        """Trials on record that lie in the space, with their ``point`` in its terms, in order.

        Args:
            stopped: count those that were given up early.
        """
        found = {}
        for record in store.read(self.trials_file) if self.trials_file.is_file() else ():
            point = self._point(record)
            if point is None or record["status"] != "finished" or (record["stopped"] and not stopped):
                continue
            found[identity(point)] = record | {"point": point}
        return list(found.values())

    def _point(self, record: dict) -> dict | None:
        """Where a recorded trial lies in the space; None if it does not."""
        names = [parameter.name for parameter in self.space.parameters]
        config, tuned = self.base.config, record["point"]
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
        """Whether a score beats another one."""
        return score > than if self.bigger else score < than


def describe(point: dict) -> str:
    """``a=1, b=2``."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def identity(point: dict) -> str:
    """What makes two points the same."""
    return run_key("", point, 0, "")
