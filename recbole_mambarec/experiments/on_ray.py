"""Trials on a ray cluster: the search asks and records as it does on one machine, ray finds them a place.

What is peculiar to ray stays here.

A search that was cut off, however hard, goes on from its own record, not from ray's: what has finished is not made
again, and the rungs of the early stopping are filled from the recorded curves. ray's own restore has no rungs.
"""

from __future__ import annotations

import contextlib
import json
import logging
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
from recbole_mambarec.errors import UserError, one_line, sentence
from recbole_mambarec.experiments.run import Run, failure
from recbole_mambarec.experiments.trial import trial
from recbole_mambarec.memory import peak_gib
from recbole_mambarec_common.extras import need

if TYPE_CHECKING:
    from recbole_mambarec.experiments.tuning import Attempt, Tuning

# a trial whose process was killed is started this many times again before it counts as failed
_RESTARTS = 1
# as in setup.cfg: the first release that has builds for Python 3.13
_OLDEST = "2.45"
# what holds while a search runs: Ctrl-C ends the search (ray would end its trials and go on as if all had been made),
# and ray is quiet (its newer output prints a table even if it is told not to)
_WHILE_SEARCHING = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
# what ray reads once, when it is imported, where the user has not decided otherwise: under "uv run", it would send the
# current folder, datasets and all, to each worker and build the environment anew there
_AT_IMPORT = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


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
        UserError: ray is missing, broken, too old or cannot be reached, no trial fits into the cluster, or all of them
            fail alike.
        KeyboardInterrupt: what has finished is on record.
    """
    for name, value in _AT_IMPORT.items():
        os.environ.setdefault(name, value)
    tune = need("ray.tune", "ray")
    if not hasattr(tune, "get_context"):
        from ray import __version__

        raise UserError(
            f"this needs ray {_OLDEST} or newer, and {__version__} is installed: pip install --upgrade "
            '"recbole-mambarec[ray]"'
        )
    with contextlib.closing(tuning.bar):
        if len(tuning.records) < tuning.max_evals:
            with _quiet(), _cluster(settings.address):
                _Trials(tuning, settings).make(jobs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let ray's own log of the search be: it warns of its defaults and of each trial that fails."""
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if address is None:
            # "local": not the one that the environment may name
            ray.init("local", include_dashboard=False, **quiet)
        else:
            host, _, port = address.rpartition(":")
            if host and port.isdecimal() and "/" not in host:
                # ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address is None:
            raise UserError(f"ray cannot be started on this machine: {one_line(error)}") from error
        if isinstance(error, ray.exceptions.RayError):
            raise UserError(f"the ray cluster at '{address}' refuses: {one_line(error)}") from error
        if "ersion mismatch" in str(error):
            raise UserError(f"the ray cluster at '{address}' has other versions: {one_line(error)}") from error
        raise UserError(f"there is no ray cluster at '{address}': {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _room(resources: dict[str, float]) -> int:
    """How many trials the cluster can make at a time.

    Raises:
        UserError: not one.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {name.upper() if name != "memory" else name: amount for name, amount in resources.items() if amount}

    def trials(node: dict[str, float]) -> int:
        return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items())

    room = sum(map(trials, nodes))
    if not room:
        raise UserError(
            f"no node of the ray cluster has room for a trial ({_amounts(wanted)}), there are "
            f"{'; '.join(_amounts(node) for node in nodes)}: let a trial take less (--trial_cpus, --trial_gpus), "
            "or give --jobs where nodes are added on demand"
        )
    return room


def _amounts(resources: dict[str, float]) -> str:
    gib = resources.get("memory", 0) / 2**30
    parts = [f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    return ", ".join([*parts, f"{gib:.1f} GiB"] if gib else parts) or "nothing"


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
                # with a number, ray starts so many at once, and asks for no point before there is a place for it
                max_concurrent_trials=jobs or _room(resources),
                search_alg=_searcher(self),
                scheduler=self._scheduler(),
                trial_name_creator=lambda made: made.trial_id,
                trial_dirname_creator=lambda made: made.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(own),
                callbacks=[_listener(self)],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                verbose=0,
            ),
        )
        with _environment(_WHILE_SEARCHING):
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

    def end(self, trial_id: str, died: str = "") -> None:
        """A trial has ended: by itself, given up, or failed, then ``died`` says how."""
        followed = self.followed.pop(trial_id)
        seconds = perf_counter() - followed.started
        try:
            if died or followed.error:
                error = followed.error or died
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
    from ray.exceptions import RayActorError
    from ray.tune import Callback

    class Listener(Callback):
        """Passes on what ray tells about trials."""

        def on_trial_result(self, *, trial, result, **info) -> None:
            trials.hear(trial.trial_id, result)

        def on_trial_complete(self, *, trial, **info) -> None:
            trials.end(trial.trial_id)

        def on_trial_error(self, *, trial, **info) -> None:
            # whatever a trial raises is reported; this is one whose process is gone, or never came as far
            error, text = _last_error(trial)
            if isinstance(error, RayActorError):
                trials.end(trial.trial_id, died=f"its process died, {_RESTARTS + 1} times")
            else:
                trials.end(trial.trial_id, died=f"it did not start: {text}")

        def __reduce__(self):
            return Callback, ()

    return Listener()


def _last_error(trial) -> tuple[Exception | None, str]:
    """The last error of a trial, and the last line of its text.

    Ray's own ``Trial.get_error`` looks into the storage, where the files come with the next synchronisation, a
    moment after the callback; the driver has written them to its own folder before it calls back.
    """
    from ray import cloudpickle

    error, text = None, "ray does not say why"
    pickled, written = trial.pickled_error_file, trial.error_file
    if pickled and Path(pickled).is_file():
        error = cloudpickle.loads(Path(pickled).read_bytes())
    if written and Path(written).is_file():
        lines = Path(written).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        text = lines[-1] if lines else text
    return error, text


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
    from recbole_mambarec.compat.ray import RayTune

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
