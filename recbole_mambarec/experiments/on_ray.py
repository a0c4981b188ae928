"""Trials on a ray cluster: the search asks and records as it does on one machine, ray finds them a place.

What is peculiar to ray stays here. ray 2.6.3 is the newest release that RecBole's own requirements allow; its workers
need numpy's old names, which importing this package gives back (:func:`_prepare_worker`). Later releases work as well.

A search that was cut off, however hard, goes on from its own record, not from ray's: what has finished is not made
again, and the rungs of the early stopping are filled from the recorded curves. ray's own restore has no rungs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset

from recbole_mambarec.cli import no_command_line
from recbole_mambarec.data.reuse import settings_of
from recbole_mambarec.errors import UserError, sentence
from recbole_mambarec.experiments.run import Run, failure
from recbole_mambarec.experiments.trial import trial
from recbole_mambarec.extras import need
from recbole_mambarec.memory import peak_gib

if TYPE_CHECKING:
    from recbole_mambarec.experiments.tuning import Attempt, Tuning

# a trial whose process was killed is started this many times again before it counts as failed
_RESTARTS = 1


@dataclass(frozen=True)
class RaySettings:
    """How trials are placed and when they are given up.

    Attributes:
        address: of a running cluster; None: one is started on this machine and ended with the search.
        trial_cpus, trial_gpus: what a trial takes; a fraction of a GPU lets several share one.
        grace: epochs before a trial may be given up; 0: none is.
        halving: at each rung (``grace``, ``grace * halving``, ... epochs) one trial in so many goes on.

    Raises:
        UserError: a number that makes no sense.
    """

    address: str | None = None
    trial_cpus: float = 1
    trial_gpus: float = 0
    grace: int = 10
    halving: int = 3

    def __post_init__(self) -> None:
        for name, least in (("trial_cpus", 0.01), ("trial_gpus", 0), ("grace", 0), ("halving", 2)):
            if not getattr(self, name) >= least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")


def run_on_ray(tuning: Tuning, jobs: int | None, settings: RaySettings) -> None:
    """Make all trials of a search on ray.

    Args:
        jobs: trials at a time; None: as many as the cluster has room for.

    Raises:
        UserError: ray is missing or cannot be reached, or all trials fail alike.
        KeyboardInterrupt: what has finished is on record.
    """
    need("ray.tune", "ray")
    with contextlib.closing(tuning.bar):
        if len(tuning.records) < tuning.max_evals:
            with _cluster(settings.address):
                _Trials(tuning, settings).make(jobs)


def _prepare_worker() -> None:
    """Runs in every worker before anything else of ray's: looking this function up has imported the package."""


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"address": address} if address else {"include_dashboard": False}
    host, _, port = (address or "").rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:
            # ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            **options,
            runtime_env={"worker_process_setup_hook": _prepare_worker},
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"there is no ray cluster at '{address}': {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


# ------------------------------------------------------------------------------------------------------------
# in the driver


@dataclass
class _Followed:
    """What the driver knows of a trial that ray makes."""

    attempt: Attempt
    started: float = field(default_factory=perf_counter)
    curve: list[dict] = field(default_factory=list)
    memory_gib: float = 0.0
    record: dict | None = None
    error: str = ""


class _Trials:
    """A search as ray sees it."""

    def __init__(self, tuning: Tuning, settings: RaySettings) -> None:
        self.tuning, self.search, self.settings = tuning, tuning.search, settings
        self.folder = self.search.folder.resolve()
        self.followed: dict[str, _Followed] = {}
        self.trouble: UserError | None = None

    def make(self, jobs: int | None) -> None:
        """Start ray's tuner and wait for its end."""
        from ray import tune

        run_config, failures = _named(tune, "RunConfig"), _named(tune, "FailureConfig")
        known = max((record["memory_gib"] for record in self.tuning.records), default=0.0)
        resources = {"cpu": self.settings.trial_cpus, "gpu": self.settings.trial_gpus}
        if known:
            resources["memory"] = int(known * 2**30)
        objective = tune.with_parameters(_objective, data=self._data(), weights=str(self.folder))
        own = self.folder / "ray"
        tuner = tune.Tuner(
            tune.with_resources(objective, resources),
            tune_config=tune.TuneConfig(
                num_samples=self.tuning.max_evals - len(self.tuning.records),
                max_concurrent_trials=jobs,
                search_alg=_searcher(self),
                scheduler=self._scheduler(),
                trial_name_creator=lambda made: made.trial_id,
                trial_dirname_creator=lambda made: made.trial_id,
            ),
            run_config=run_config(
                name="trials",
                storage_path=str(own),
                callbacks=[_listener(self)],
                failure_config=failures(max_failures=_RESTARTS),
                verbose=0,
            ),
        )
        with _sigint_is_ours():
            try:
                tuner.fit()
            finally:
                shutil.rmtree(own, ignore_errors=True)
        if self.trouble is not None:
            raise self.trouble

    def _data(self) -> SharedData | None:
        """The dataset, read once here and sent once to each node; None where a tuned key changes it."""
        base = self.search.base
        with no_command_line():
            dataset = create_dataset(Config(base.model, base.dataset, config_dict=dict(base.given)))
        tuned = {parameter.name for parameter in self.search.space.parameters}
        return None if tuned & settings_of(dataset) else SharedData(dataset)

    def _scheduler(self):
        """Asynchronous successive halving, its rungs filled with what is on record."""
        from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

        if not self.settings.grace:
            return FIFOScheduler()
        last = self.search.base.config["epochs"]
        if self.settings.grace > last:
            raise UserError(f"grace {self.settings.grace} is longer than a trial, which has {last} epochs")
        scheduler = ASHAScheduler(
            time_attr="epochs",
            metric="score",
            mode=self.mode,
            # the last epoch is never a reason to end a trial, which still has to leave its record
            max_t=last + 1,
            grace_period=self.settings.grace,
            reduction_factor=self.settings.halving,
        )
        for record in self.tuning.records:
            past = SimpleNamespace(trial_id=record["key"])
            scheduler.on_trial_add(None, past)
            for entry in record["curve"]:
                scheduler.on_trial_result(None, past, _progress(entry, self.search.metric))
        return scheduler

    @property
    def mode(self) -> str:
        """In ray's words."""
        return "max" if self.search.bigger else "min"

    # -------------------------------------------------------------- what ray calls

    def propose(self, trial_id: str) -> dict | None:
        """The configuration of the next trial, None if there is none."""
        attempt = None if self.trouble else self.tuning.ask()
        if attempt is None:
            return None
        self.followed[trial_id] = _Followed(attempt)
        given = dict(attempt.run.given)
        # a worker's folder is not the driver's
        for key in ("data_path", "cache_dir"):
            if given.get(key) or key == "data_path":
                given[key] = str(Path(given.get(key) or "dataset/").resolve())
        run = replace(attempt.run, given=given, checkpoint_dir=str(self.folder / "running"))
        return {"run": asdict(run), "gpu": bool(self.settings.trial_gpus)}

    def hear(self, trial_id: str, result: dict) -> None:
        """A trial has reported."""
        followed = self.followed[trial_id]
        followed.memory_gib = max(followed.memory_gib, result["memory_gib"])
        followed.error = result.get("error", "")
        if result.get("record"):
            followed.record = json.loads(result["record"])
        elif result.get("entry"):
            entry = json.loads(result["entry"])
            # one whose process was killed starts again, possibly further back
            followed.curve = [e for e in followed.curve if e["epoch"] < entry["epoch"]] + [entry]
            self.tuning.bar.set_postfix_str(
                f"{followed.attempt.run.label}: epoch {entry['epoch']}, {result['score']:.4f}"
            )

    def end(self, trial_id: str, died: bool = False) -> None:
        """A trial has ended: by itself, given up, or failed."""
        followed = self.followed.pop(trial_id)
        seconds = perf_counter() - followed.started
        try:
            if died or followed.error:
                error = followed.error or f"its process died, {_RESTARTS + 1} times"
                self.tuning.tell_failure(followed.attempt, error, seconds, followed.memory_gib)
            elif followed.record is not None:
                self.tuning.tell(followed.attempt, followed.record, seconds, followed.memory_gib)
            else:
                record = self._given_up(followed)
                self.tuning.tell(followed.attempt, record, seconds, followed.memory_gib, stopped=True)
        except UserError as trouble:  # ray must not take it for a failure of its own
            self.trouble = trouble

    def _given_up(self, followed: _Followed) -> dict:
        """The record of a trial that early stopping has ended."""
        metric, curve = self.search.metric, followed.curve
        best = (max if self.search.bigger else min)(curve, key=lambda entry: entry["valid"][metric])
        return failure(followed.attempt.run, "") | {
            "status": "finished",
            "error": None,
            "valid": best["valid"],
            "curve": curve,
            "best_epoch": best["epoch"],
            "epochs": len(curve),
            "seconds": round(sum(e["train_seconds"] + e["valid_seconds"] for e in curve), 1),
        }


def _progress(entry: dict, metric: str) -> dict:
    """What early stopping sees of an epoch."""
    return {"epochs": entry["epoch"] + 1, "score": entry["valid"][metric]}


def _named(tune, name: str):
    """A configuration class of ray's, which moved from ``ray.air`` to ``ray.tune``."""
    if hasattr(tune, name):
        return getattr(tune, name)
    from ray import air

    return getattr(air, name)


def _searcher(trials: _Trials):
    from ray.tune.search import Searcher

    class Proposals(Searcher):
        """Asks the search for points; what it knows is kept by the search's own record."""

        def suggest(self, trial_id: str) -> dict | str:
            return trials.propose(trial_id) or Searcher.FINISHED

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

        def __reduce__(self):
            return Searcher, ("score", trials.mode)

    return Proposals("score", trials.mode)


def _listener(trials: _Trials):
    from ray.tune import Callback

    class Listener(Callback):
        """Passes on what ray tells about trials."""

        def on_trial_result(self, *, trial, result, **info) -> None:
            trials.hear(trial.trial_id, result)

        def on_trial_complete(self, *, trial, **info) -> None:
            trials.end(trial.trial_id)

        def on_trial_error(self, *, trial, **info) -> None:
            # whatever a trial raises is reported; this is one whose process is gone
            trials.end(trial.trial_id, died=True)

        def __reduce__(self):
            return Callback, ()

    return Listener()


@contextlib.contextmanager
def _sigint_is_ours() -> Iterator[None]:
    """Let Ctrl-C end the search; ray would end its trials and go on as if all had been made."""
    variable = "TUNE_DISABLE_SIGINT_HANDLER"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


# ------------------------------------------------------------------------------------------------------------
# in the workers


class SharedData:
    """A dataset that travels with the features of its items, which ray then maps into the memory of each worker."""

    def __init__(self, dataset: Dataset) -> None:
        self.kind = type(dataset)
        # its own __getstate__ leaves the features behind, which are read again where it arrives
        self.contents = {name: value for name, value in vars(dataset).items() if name != "config"}

    def dataset(self) -> Dataset:
        """A copy that does not share what a trial replaces."""
        made = self.kind.__new__(self.kind)
        made.__dict__.update(self.contents)
        return made


def _objective(config: dict, data: SharedData | None = None, weights: str = "") -> None:
    """A trial in a worker."""
    from recbole_mambarec.compat import RayTune

    run = Run(**config["run"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if config["gpu"] else ""
    run = replace(run, given=run.given | {"gpu_id": visible})
    metric = str(run.config["valid_metric"]).lower()
    target: Path | None = Path(weights) / f"{run.key[:16]}.pth"
    if not target.parent.is_dir():  # another disk than the driver's: the chosen trial is trained again there
        target, run = None, replace(run, checkpoint_dir="running")

    def report(said: dict) -> None:
        progress = _progress(said["entry"], metric)
        RayTune.report(**progress, memory_gib=said["memory_gib"], entry=json.dumps(said["entry"]))

    try:
        record = trial(run, target, report, data and data.dataset())
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        # not ray's affair: it would try again
        RayTune.report(epochs=0, score=math.nan, memory_gib=peak_gib(), error=sentence(error))
    else:
        done = {"epochs": record["epochs"], "score": record["valid"][metric]}
        RayTune.report(**done, memory_gib=peak_gib(), record=json.dumps(record))
