"""Trials on a ray cluster: the search proposes and records them as on one machine, and ray runs them.

Everything that concerns ray is in this module.

An interrupted search continues from its own records, not from ray's: finished trials are not repeated, and the rungs of
early stopping are filled from the recorded curves, which ray's own restoration would leave empty.
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
from typing import TYPE_CHECKING, Any

from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset

from recbole_mambarec.config import no_command_line
from recbole_mambarec.data.reuse import settings_of
from recbole_mambarec.errors import UserError, error_summary, one_line
from recbole_mambarec.experiments.plan import Run
from recbole_mambarec.experiments.run import new_record
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.experiments.trial import trial
from recbole_mambarec.memory import peak_gib
from recbole_mambarec_common.extras import need

if TYPE_CHECKING:
    from recbole_mambarec.experiments.tuning import Attempt, Tuning

# how often a trial is restarted after its process was killed, before it counts as failed
_RESTARTS = 1
# as in setup.cfg: the first release that has builds for Python 3.13
_OLDEST = "2.45"
# environment while a search runs: Ctrl-C ends the search (ray would end its trials and continue as if all had been
# run), and ray is quiet (its newer output prints a table even with verbose=0)
_WHILE_SEARCHING = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
# environment that ray reads when it is imported, unless the user has set it: under "uv run", ray would send the current
# folder, including datasets, to each worker and build the environment there again
_AT_IMPORT = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@dataclass(frozen=True)
class RaySettings:
    """Where trials run and when they are stopped early.

    Attributes:
        address: of a running cluster; None: a cluster is started on this machine and stopped after the search.
        trial_cpus, trial_gpus: resources of a trial; several trials share a GPU if each takes a fraction.
        grace: epochs before a trial may be stopped early; 0: none is.
        halving: of this many trials, one continues at each rung (``grace``, ``grace * halving``, ... epochs).

    Raises:
        UserError: a number is too small.
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
    """Run all trials of a search on ray.

    Args:
        jobs: trials at a time; None: as many as the cluster has room for.

    Raises:
        UserError: ray is missing, broken, too old or unreachable, no trial fits into the cluster, or all trials fail
            with the same error.
        KeyboardInterrupt: finished trials are recorded.
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
                _Trials(tuning, settings).run(jobs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence ray's log, which warns about its defaults and about each failed trial."""
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
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if address is None:
            # "local": not a cluster that the environment may name
            ray.init("local", include_dashboard=False, **quiet)
        else:
            host, _, port = address.rpartition(":")
            if host and port.isdecimal() and "/" not in host:
                # ray itself would keep trying for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address is None:
            raise UserError(f"ray cannot be started on this machine: {one_line(error)}") from error
        if isinstance(error, ray.exceptions.RayError):
            raise UserError(f"the ray cluster at '{address}' refuses the connection: {one_line(error)}") from error
        if "ersion mismatch" in str(error):
            raise UserError(
                f"the ray cluster at '{address}' has other versions of ray or Python: {one_line(error)}"
            ) from error
        raise UserError(f"there is no ray cluster at '{address}': {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _room(resources: dict[str, float]) -> int:
    """How many trials the cluster can run at a time.

    Raises:
        UserError: not even one.
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
    """The driver's view of a trial that ray is running."""

    attempt: Attempt
    started: float = field(default_factory=perf_counter)
    curve: list[dict] = field(default_factory=list)
    memory_gib: float = 0.0
    record: Record | None = None
    error: str = ""


class _Trials:
    """The trials of a search, and the functions that ray calls about them."""

    def __init__(self, tuning: Tuning, settings: RaySettings) -> None:
        self.tuning, self.search, self.settings = tuning, tuning.search, settings
        self.folder = self.search.folder.resolve()
        self.followed: dict[str, _Followed] = {}
        self.error: UserError | None = None

    def run(self, jobs: int | None) -> None:
        """Start ray's tuner and wait until it ends."""
        from ray import tune

        memory_gib = max((record.memory_gib for record in self.tuning.records), default=0.0)
        resources = {"cpu": self.settings.trial_cpus, "gpu": self.settings.trial_gpus}
        if memory_gib:
            resources["memory"] = int(memory_gib * 2**30)
        objective = tune.with_parameters(_objective, data=self._data(), weights=str(self.folder))
        own = self.folder / "ray"
        tuner = tune.Tuner(
            tune.with_resources(objective, resources),
            tune_config=tune.TuneConfig(
                num_samples=self.tuning.max_evals - len(self.tuning.records),
                # given a number, ray starts that many at once, and asks for the next point only when one has ended
                max_concurrent_trials=jobs or _room(resources),
                search_alg=_searcher(self),
                scheduler=self._scheduler(),
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
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
        if self.error is not None:
            raise self.error

    def _data(self) -> SharedData | None:
        """The dataset, read once here and sent once to each node; None if a tuned key changes it."""
        base = self.search.base
        with no_command_line():
            dataset = create_dataset(Config(base.model, base.dataset, config_dict=dict(base.given)))
        tuned = {parameter.name for parameter in self.search.space.parameters}
        return None if tuned & settings_of(dataset) else SharedData(dataset)

    def _scheduler(self):
        """Asynchronous successive halving, with the recorded trials on its rungs."""
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
            # a trial must not be stopped in its last epoch, because it still has to report its record
            max_t=last + 1,
            grace_period=self.settings.grace,
            reduction_factor=self.settings.halving,
        )
        for record in self.tuning.records:
            past: Any = SimpleNamespace(trial_id=record.key)
            scheduler.on_trial_add(None, past)
            for entry in record.curve:
                scheduler.on_trial_result(None, past, _progress(entry, self.search.metric))
        return scheduler

    @property
    def mode(self) -> str:
        """``max`` or ``min``, as ray calls the direction of a search."""
        return "max" if self.search.bigger else "min"

    # -------------------------------------------------------------- called by ray

    def propose(self, trial_id: str) -> dict | None:
        """The configuration of the next trial; None if there is none."""
        attempt = None if self.error else self.tuning.ask()
        if attempt is None:
            return None
        self.followed[trial_id] = _Followed(attempt)
        given = dict(attempt.run.given)
        # the working folder of a worker is another one
        for key in ("data_path", "cache_dir"):
            if given.get(key) or key == "data_path":
                given[key] = str(Path(given.get(key) or "dataset/").resolve())
        run = replace(attempt.run, given=given, checkpoint_dir=str(self.folder / "running"))
        return {"run": asdict(run), "gpu": bool(self.settings.trial_gpus)}

    def on_result(self, trial_id: str, result: dict) -> None:
        """Take the report of a trial into account."""
        followed = self.followed[trial_id]
        followed.memory_gib = max(followed.memory_gib, result["memory_gib"])
        followed.error = result.get("error", "")
        if result.get("record"):
            followed.record = Record.from_json(json.loads(result["record"]))
        elif result.get("entry"):
            entry = json.loads(result["entry"])
            # after its process was killed, a trial starts again, possibly from an earlier epoch
            followed.curve = [e for e in followed.curve if e["epoch"] < entry["epoch"]] + [entry]
            self.tuning.bar.set_postfix_str(
                f"{followed.attempt.run.label}: epoch {entry['epoch']}, {result['score']:.4f}"
            )

    def on_end(self, trial_id: str, died: str = "") -> None:
        """Record a trial that has finished, was stopped early, or has failed.

        Args:
            died: a sentence if ray could not run the trial to its end.
        """
        followed = self.followed.pop(trial_id)
        seconds = perf_counter() - followed.started
        try:
            if died or followed.error:
                error = followed.error or died
                self.tuning.tell_failure(followed.attempt, error, seconds, followed.memory_gib)
            elif followed.record is not None:
                self.tuning.tell(followed.attempt, followed.record, seconds, followed.memory_gib)
            else:
                record = self._stopped_early(followed)
                self.tuning.tell(followed.attempt, record, seconds, followed.memory_gib, stopped=True)
        except UserError as error:  # ray must not take it for an error of its own
            self.error = error

    def _stopped_early(self, followed: _Followed) -> Record:
        """The record of a trial that was stopped early."""
        metric, curve = self.search.metric, followed.curve
        best = (max if self.search.bigger else min)(curve, key=lambda entry: entry["valid"][metric])
        return replace(
            new_record(followed.attempt.run),
            valid=best["valid"],
            curve=curve,
            best_epoch=best["epoch"],
            epochs=len(curve),
            seconds=round(sum(e["train_seconds"] + e["valid_seconds"] for e in curve), 1),
        )


def _progress(entry: dict, metric: str) -> dict:
    """What is reported about an epoch for early stopping."""
    return {"epochs": entry["epoch"] + 1, "score": entry["valid"][metric]}


def _searcher(trials: _Trials):
    from ray.tune.search import Searcher

    class Proposals(Searcher):
        """Passes the points of the search on to ray; it has no state of its own that ray would have to save."""

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
        """Passes ray's messages about trials on to the search."""

        def on_trial_result(self, *, trial, result, **info) -> None:
            trials.on_result(trial.trial_id, result)

        def on_trial_complete(self, *, trial, **info) -> None:
            trials.on_end(trial.trial_id)

        def on_trial_error(self, *, trial, **info) -> None:
            # exceptions of a trial are reported as results: here, its process has died or has not started
            error, text = _last_error(trial)
            if isinstance(error, RayActorError):
                trials.on_end(trial.trial_id, died=f"its process died, {_RESTARTS + 1} times")
            else:
                trials.on_end(trial.trial_id, died=f"it did not start: {text}")

        def __reduce__(self):
            return Callback, ()

    return Listener()


def _last_error(trial) -> tuple[Exception | None, str]:
    """The last error of a trial, and the last line of its text.

    Ray's own ``Trial.get_error`` reads the storage, which gets the files with the next synchronisation, a moment after
    the callback; the driver has written them to its own folder before the callback.
    """
    from ray import cloudpickle

    error, text = None, "ray gives no reason"
    pickled, written = trial.pickled_error_file, trial.error_file
    if pickled and Path(pickled).is_file():
        error = cloudpickle.loads(Path(pickled).read_bytes())
    if written and Path(written).is_file():
        lines = Path(written).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        text = lines[-1] if lines else text
    return error, text


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
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
    """A dataset that is pickled with the features of its items, which ray then maps into the memory of each worker."""

    def __init__(self, dataset: Dataset) -> None:
        self.kind = type(dataset)
        # not its __getstate__, which leaves out the features, so that they would be read again in each worker
        self.contents = {name: value for name, value in vars(dataset).items() if name != "config"}

    def dataset(self) -> Dataset:
        """A copy, of which a trial can replace attributes."""
        copy = object.__new__(self.kind)
        copy.__dict__.update(self.contents)
        return copy


def _objective(config: dict, data: SharedData | None = None, weights: str = "") -> None:
    """Run a trial in a worker."""
    from recbole_mambarec.compat.ray import RayTune

    run = Run(**config["run"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if config["gpu"] else ""
    run = replace(run, given=run.given | {"gpu_id": visible})
    metric = str(run.config["valid_metric"]).lower()
    target: Path | None = Path(weights) / f"{run.key[:16]}.pth"
    if not target.parent.is_dir():  # the worker has another disk: the driver will train the chosen trial again
        target, run = None, replace(run, checkpoint_dir="running")

    def report(message: dict) -> None:
        progress = _progress(message["entry"], metric)
        RayTune.report(**progress, memory_gib=message["memory_gib"], entry=json.dumps(message["entry"]))

    try:
        record = trial(run, target, report, data and data.dataset())
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        # as a result: after an exception, ray would try again
        RayTune.report(epochs=0, score=math.nan, memory_gib=peak_gib(), error=error_summary(error))
    else:
        done = {"epochs": record.epochs, "score": record.valid[metric]}
        RayTune.report(**done, memory_gib=peak_gib(), record=json.dumps(record.to_json()))
