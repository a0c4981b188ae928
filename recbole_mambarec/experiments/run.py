"""One run: resolve what is asked for, train, test under both masks, record.

::

    run = resolve("MambaRec", "baby", seed=999, overrides={"mmd_weight": 0.2})
    record = execute(run, "results/runs.jsonl")          # in this process
    record = execute_apart(run, "results/runs.jsonl")    # in a fresh one, which gives its memory back

One training serves both masks: the epoch is chosen on the validation split, where they do not differ.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, create_samplers, data_preparation
from recbole.data.dataset import Dataset
from recbole.data.utils import get_dataloader
from recbole.utils import get_model, get_trainer, init_logger, init_seed

from recbole_mambarec import registry
from recbole_mambarec.cli import no_command_line, user_errors_of_recbole
from recbole_mambarec.config import default_properties
from recbole_mambarec.data.dataset import wanted_modalities
from recbole_mambarec.data.fingerprint import data_hash
from recbole_mambarec.errors import UserError, sentence
from recbole_mambarec.experiments import store, users
from recbole_mambarec.experiments.curve import Curve
from recbole_mambarec.experiments.processes import end_with_parent, interrupts_ignored
from recbole_mambarec.memory import peak_gib
from recbole_mambarec.run_keys import NO_EFFECT, run_key
from recbole_mambarec.trainer import MultimodalTrainer, plain, read_checkpoint
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import locked

DEFAULT_SEED: int = default_properties("overall")["seed"]
LIBRARIES = ("recbole_mambarec", "torch", "recbole", "numpy", "scipy", "pandas")
_REFUSED = {
    "resume_from": "a run that was interrupted continues from its own checkpoint by itself",
    "nproc": "a run that is recorded takes one process",
}
# of test scores on record
_DECIMALS = 6
# exit statuses of a process that makes a run; others mean that it could not record what happened
_FINISHED, _FAILED, _BUSY, _INTERRUPTED = 0, 3, 4, 130


class Busy(Exception):
    """Another process makes the same run at this moment."""


@dataclass(frozen=True)
class Run:
    """A training that is fully described before it starts.

    Attributes:
        group, label: see :mod:`~recbole_mambarec.experiments.store`.
        given: what ``Config`` is built from, the user's paths and device included.
        overrides, config, data_hash, key: see :mod:`~recbole_mambarec.experiments.store`.
        checkpoint_dir: where the checkpoint and, while the run goes on, its curve lie.
    """

    group: str
    label: str
    model: str
    dataset: str
    seed: int
    given: dict
    overrides: dict
    config: dict
    data_hash: str
    key: str
    checkpoint_dir: str

    @property
    def checkpoint(self) -> Path:
        """The file of the best epoch so far."""
        return Path(self.checkpoint_dir) / f"{self.model}-{self.key[:16]}.pth"

    def with_seed(self, seed: int) -> Run:
        """The same run with another seed."""
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise UserError(f"a seed must be a whole number from 0, got {seed!r}")
        key = run_key(self.model, self.config, seed, self.data_hash)
        return replace(self, seed=seed, given=self.given | {"seed": seed}, key=key)

    def __str__(self) -> str:
        return f"{self.label}, {self.dataset}, seed {self.seed}"


# ------------------------------------------------------------------------------------------------------------
# before


def resolve(
    model: str,
    dataset: str,
    seed: int | None = None,
    overrides: dict | None = None,
    config_files: list[str] | None = None,
    label: str | None = None,
    group: str = "comparison",
) -> Run:
    """Find out everything about a run without making it.

    Args:
        model, dataset: as RecBole knows them.
        seed: unset: as configured, else the default of this package.
        overrides: configuration, stronger than ``config_files``; text is read as on RecBole's command line.
        label: unset: the model's name.

    Raises:
        UserError: whatever can be found wrong with the configuration or the dataset's folder without reading the data.
    """
    _check_allowed(overrides or {})
    with no_command_line():
        try:
            config = Config(model, dataset, config_files, dict(overrides or {}))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            reason = str(error).strip() or type(error).__name__
            raise UserError(f"the configuration of {model} on {dataset} is not valid: {reason}") from error
    given = dict(config.external_config_dict)
    _check_allowed(given)
    if config["eval_step"] < 1:
        raise UserError(
            "eval_step must be at least 1 here: the epoch of a recorded run is chosen on the validation split"
        )
    effective, data = _what_counts(config)
    if model in registry.names():
        wanted_modalities(config, Path(config["data_path"]), dataset)
    run = Run(
        group=group,
        label=label or model,
        model=model,
        dataset=dataset,
        seed=0,
        given=given | {"mask_valid_in_test": True},
        overrides=_without_paths({key: plain(value) for key, value in given.items() if key not in NO_EFFECT}),
        config=effective,
        data_hash=data,
        key="",
        checkpoint_dir=str(config["checkpoint_dir"]),
    )
    return run.with_seed(given.get("seed", DEFAULT_SEED) if seed is None else seed)


def _check_allowed(given: dict) -> None:
    """Refuse configuration that a recorded run decides on itself."""
    for key, reason in _REFUSED.items():
        if str(given.get(key)) not in ("None", "1"):
            raise UserError(f"{key} cannot be given here: {reason}")


def _what_counts(config: Config) -> tuple[dict, str]:
    """The part of the configuration that can change a result, as plain values, and the fingerprint of the data."""
    effective = {key: value for key, value in plain(config.final_config_dict).items() if key not in NO_EFFECT}
    suffixes = tuple(config["additional_feat_suffix"] or ())
    return _without_paths(effective), data_hash(Path(config["data_path"]), config["dataset"], suffixes)


def _without_paths(value: object) -> object:
    """``value`` with the file names alone of absolute paths."""
    if isinstance(value, dict):
        return {key: _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_paths(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


# ------------------------------------------------------------------------------------------------------------
# the run itself


class Session:
    """What RecBole needs for one run: configuration, data under both masks, model, trainer.

    Args:
        dataset: what ``create_dataset`` gives for this run, where it has been read before.

    Attributes:
        config, train, valid, model, trainer: RecBole's.
        test: mask -> test loader.
    """

    def __init__(self, run: Run, dataset: Dataset | None = None) -> None:
        with no_command_line():
            self.config = Config(run.model, run.dataset, config_dict=dict(run.given))
        if dataset is None:
            effective, data = _what_counts(self.config)
            if run_key(run.model, effective, run.seed, data) != run.key:
                raise UserError(f"the data or the defaults of {run} have changed since it was planned: start it again")
        init_logger(self.config)
        seeds = self.config["seed"], self.config["reproducibility"]
        init_seed(*seeds)
        if dataset is None:
            dataset = create_dataset(self.config)
        else:
            dataset.config = self.config
        self.train, self.valid, test = data_preparation(self.config, dataset)
        if self.config["repeatable"]:
            self.test = {store.UNMASKED: test}
        else:
            self.test = {"train": self._ranking_validation_items(dataset, test), "train+valid": test}
        init_seed(*seeds)
        self.model = get_model(run.model)(self.config, self.train._dataset).to(self.config["device"])
        self.trainer = get_trainer(self.config["MODEL_TYPE"], run.model)(self.config, self.model)
        self.trainer.saved_model_file = str(run.checkpoint)

    def _ranking_validation_items(self, dataset, test):
        """The test loader under the mask of the published tables, on the same split."""
        built = [loader._dataset for loader in (self.train, self.valid, test)]
        self.config["mask_valid_in_test"] = False
        try:
            sampler = create_samplers(self.config, dataset, built)[2]
            return get_dataloader(self.config, "test")(self.config, test._dataset, sampler, shuffle=False)
        finally:
            self.config["mask_valid_in_test"] = True

    def evaluate(self, checkpoint: Path) -> tuple[dict[str, dict[str, float]], dict[str, users.TopK]]:
        """Test scores of the checkpoint by mask, and what was recommended (empty where the metrics do not rank)."""
        scores, tops = {}, {}
        for mask, loader in self.test.items():
            with users.captured(self.trainer) as captured, _unrounded(self.trainer):
                result = self.trainer.evaluate(
                    loader, model_file=str(checkpoint), show_progress=self.config["show_progress"]
                )
            scores[mask] = {name: float(value) for name, value in result.items()}
            if captured:
                (tops[mask],) = captured
        return scores, tops

    def write_users(self, path: Path, tops: dict[str, users.TopK]) -> str | None:
        """Write the results per user; the path as a record names it, None where there are none."""
        if not tops:
            return None
        users.write(path, users.table(self.train._dataset, next(iter(self.test.values())), tops, self.config))
        return f"{path.parent.name}/{path.name}"


@contextlib.contextmanager
def _unrounded(trainer) -> Iterator[None]:
    """Scores with more decimals than RecBole prints, as means, deviations and orders are made of them.

    Validation keeps RecBole's rounding, by which it chooses epochs.
    """
    metrics = trainer.evaluator.metric_class.values()
    before = [metric.decimal_place for metric in metrics]
    try:
        for metric in metrics:
            metric.decimal_place = max(_DECIMALS, metric.decimal_place)
        yield
    finally:
        for metric, places in zip(metrics, before):
            metric.decimal_place = places


def execute(run: Run, runs: str | os.PathLike, per_user: bool = True) -> dict:
    """Make the run in this process and add its record to the file ``runs``; a failure is recorded, too.

    A training of this package's models that was interrupted goes on exactly where its checkpoint was written, which is
    the best epoch so far. RecBole's own trainers cannot do that: their trainings start again.

    Returns:
        The record.

    Raises:
        UserError: results per user are asked for and polars is not installed.
        Busy: another process makes this run at the moment.
        KeyboardInterrupt: nothing is recorded; the next call goes on.
    """
    if per_user:
        need("polars", "compare")  # now, not after hours of training
    with alone(run):
        try:
            with user_errors_of_recbole():
                record = _train_and_test(run, users_file(runs, run.key) if per_user else None)
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc()
            record = failure(run, sentence(error))
        store.append(runs, record)
        return record


@contextlib.contextmanager
def alone(run: Run) -> Iterator[None]:
    """Keep other processes from making the run meanwhile.

    Raises:
        Busy: another one makes it.
    """
    run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    # the file stays: two processes must never hold the lock of two files of the same name
    with open(run.checkpoint.with_suffix(".lock"), "ab") as lock, contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise Busy(str(run)) from None
        yield


def users_file(runs: str | os.PathLike, key: str) -> Path:
    """Where the results per user of a run lie."""
    return Path(runs).parent / "per_user" / f"{key}.parquet"


def _train_and_test(run: Run, per_user: Path | None) -> dict:
    session, record = train(run)
    scores, tops = session.evaluate(run.checkpoint)
    record |= {
        "test": scores,
        "peak_memory_gib": round(peak_gib(session.config["device"]), 3),
        "per_user": None if per_user is None else session.write_users(per_user, tops),
    }
    curve_of(run).remove()
    return record


def train(
    run: Run, on_epoch: Callable[[dict], None] | None = None, dataset: Dataset | None = None
) -> tuple[Session, dict]:
    """Train until validation stops it; the best epoch is then in ``run.checkpoint``. The test split is not looked at.

    Args:
        on_epoch: called after each validation with the epoch's entry of the curve.
        dataset: see :class:`Session`.

    Returns:
        The session, and the record of the run, which lacks what the test would add.

    Raises:
        UserError: data or defaults are not those that the run was resolved with, or the model has no such score.
    """
    session = Session(run, dataset)
    trainer, config = session.trainer, session.config
    curve = curve_of(run)
    _resume(run, session, curve)
    with curve.following(trainer, on_epoch):
        score, valid = trainer.fit(session.train, session.valid, show_progress=config["show_progress"])
    if not valid:
        raise UserError(
            f"{run.model} ended without a score on the validation split, by which its epoch would be chosen: give it "
            "one, or the settings of its last stage if it is a model that RecBole trains in stages"
        )
    record = _record(run) | {
        "device": torch.cuda.get_device_name(config["device"]) if config["device"].type == "cuda" else "cpu",
        "valid": {name: float(value) for name, value in valid.items()},
        "curve": curve.entries,
        "best_epoch": curve.best_epoch(trainer.valid_metric, score),
        "epochs": len(curve.entries),
        "seconds": round(curve.seconds, 3),
        "peak_memory_gib": round(peak_gib(config["device"]), 3),
        "parameters": sum(p.numel() for p in session.model.parameters() if p.requires_grad),
    }
    return session, record


def curve_of(run: Run) -> Curve:
    """The curve of a training that goes on or was interrupted, beside its checkpoint."""
    return Curve(run.checkpoint.with_suffix(".curve.jsonl"))


def _resume(run: Run, session: Session, curve: Curve) -> None:
    """Let the trainer continue from the checkpoint of this run, if it can and there is one that fits the curve."""
    epoch = None
    if isinstance(session.trainer, MultimodalTrainer) and run.checkpoint.is_file():
        try:
            state = read_checkpoint(str(run.checkpoint))
            # a checkpoint that holds the best epoch and a later one continues from the latter
            epoch = state.get("resume", state)["epoch"]
        except UserError as error:
            logging.getLogger().warning(f"{error}; the training of {run} starts again")
    if epoch is not None and curve.read_until(epoch):
        session.config["resume_from"] = str(run.checkpoint)
    else:
        curve.restart()


def failure(run: Run, error: str) -> dict:
    """The record of a run that failed."""
    return _record(run) | {"status": "failed", "error": error}


def _record(run: Run) -> dict:
    """The record of a run that has not got anywhere."""
    return {
        "format": store.FORMAT,
        "key": run.key,
        "group": run.group,
        "label": run.label,
        "model": run.model,
        "dataset": run.dataset,
        "seed": run.seed,
        "overrides": run.overrides,
        "config": run.config,
        "data_hash": run.data_hash,
        "versions": versions() | registry.versions(run.model),
        "git": git_state(),
        "device": "cpu",
        "status": "finished",
        "error": None,
        "valid": {},
        "test": {},
        "curve": [],
        "best_epoch": None,
        "epochs": None,
        "seconds": None,
        "peak_memory_gib": None,
        "parameters": None,
        "per_user": None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide about a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@functools.cache
def git_state() -> dict | None:
    """Revision of the source tree that this package runs from, and whether its code differs from it; None elsewhere."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # an installed package inside someone else's repository is not tracked by it
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--", ".", "../properties")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


# ------------------------------------------------------------------------------------------------------------
# in a process of its own


def execute_apart(run: Run, runs: str | os.PathLike, per_user: bool = True) -> dict:
    """:func:`execute` in a fresh process: its memory comes back, and its peak is that of this run alone.

    A process that dies without a word (killed for lack of memory, a crash in native code) is recorded as a failure.

    Raises:
        UserError, Busy, KeyboardInterrupt: as :func:`execute`; the process has ended by then.
    """
    if per_user:
        need("polars", "compare")
    process = multiprocessing.get_context("spawn").Process(target=_apart, args=(run, os.fspath(runs), per_user))
    with interrupts_ignored():
        process.start()
    try:
        process.join()
    finally:
        _end(process)
    status = process.exitcode
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status == _BUSY:
        raise Busy(str(run))
    if status not in (_FINISHED, _FAILED):
        how = f"was killed by signal {-status} (memory may have run out)" if status < 0 else f"ended with {status}"
        store.append(runs, failure(run, f"the process of the run {how}"))
    return next(record for record in reversed(store.read(runs)) if record["key"] == run.key)


def _end(process) -> None:
    """Wait for a process that the same Ctrl-C has reached; end it if that takes long."""
    for stop in (process.terminate, process.kill):
        with contextlib.suppress(KeyboardInterrupt):
            process.join(5)
        if not process.is_alive():
            return
        stop()
    process.join()


def _apart(run: Run, runs: str, per_user: bool) -> None:
    """What the fresh process does."""
    sys.argv = sys.argv[:1]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # see interrupts_ignored
    threading.Thread(target=end_with_parent, args=(_INTERRUPTED,), daemon=True).start()
    try:
        status = _FINISHED if execute(run, runs, per_user)["status"] == "finished" else _FAILED
    except Busy:
        status = _BUSY
    except KeyboardInterrupt:
        status = _INTERRUPTED
        # somebody is waiting, and taking torch down in good order takes seconds
        logging.shutdown()
        atexit.register(os._exit, status)
    sys.exit(status)


# ------------------------------------------------------------------------------------------------------------
# afterwards


def record_from_checkpoint(run: Run, runs: str | os.PathLike, checkpoint: Path, **known: object) -> dict:
    """The record of a training that was made elsewhere: its checkpoint is tested and its results per user written.

    The record is returned, not stored. What a checkpoint does not tell (``curve``, ``valid``, ``seconds``...) is taken
    from ``known``. The checkpoints of RecBole's own trainers must be trusted explicitly (see README).

    Raises:
        UserError: the checkpoint does not fit the run, cannot be read, or is not trusted.
    """
    session = Session(replace(run, given=run.given | {"show_progress": False}))
    session.trainer.eval_collector.data_collect(session.train)
    try:
        scores, tops = session.evaluate(checkpoint)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{checkpoint} does not fit {run} ({reason}): name the configuration it was made with"
        ) from error
    return _record(run) | {
        "test": scores,
        "parameters": sum(p.numel() for p in session.model.parameters() if p.requires_grad),
        "per_user": session.write_users(users_file(runs, run.key), tops),
        **known,
    }
