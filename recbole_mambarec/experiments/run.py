"""One run: train, choose the epoch on the validation split, test under both masks, record.

::

    run = resolve("MambaRec", "baby", seed=999, overrides={"mmd_weight": 0.2})
    record = execute(run, "results/runs.jsonl")          # in this process
    record = execute_apart(run, "results/runs.jsonl")    # in a fresh one, whose memory is freed when it ends

One training serves both masks, because validation is the same under both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset
from recbole.utils import ModelType, get_model, get_trainer, init_logger, init_seed

from recbole_mambarec import registry
from recbole_mambarec.checkpoint import read_checkpoint
from recbole_mambarec.config import no_command_line
from recbole_mambarec.data.fingerprint import config_data_hash
from recbole_mambarec.errors import UserError, error_summary
from recbole_mambarec.experiments import store, users
from recbole_mambarec.experiments.curve import Curve
from recbole_mambarec.experiments.plan import Run, effective_config
from recbole_mambarec.experiments.processes import call_apart
from recbole_mambarec.experiments.provenance import device_name, git_state, versions
from recbole_mambarec.experiments.store import FAILED, Record
from recbole_mambarec.memory import peak_gib
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec.run_keys import run_key
from recbole_mambarec.scoring.splits import loaders_by_mask
from recbole_mambarec.trainer import MultimodalTrainer
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import locked

# of test scores in a record
_DECIMALS = 6


class Busy(Exception):
    """Another process is executing the same run at this moment."""


# ------------------------------------------------------------------------------------------------------------
# training and test


class Session:
    """What RecBole needs for one run: configuration, data under both masks, model, trainer.

    Args:
        dataset: the result of ``create_dataset`` for this run, if it has been read before.

    Attributes:
        config, train, valid, model, trainer: RecBole's.
        test: mask -> test loader.
        computing_seconds: what was computed in closed form when the model was built; 0 for what is trained alone.

    Raises:
        UserError: data or defaults are not those that the run was resolved with.
    """

    def __init__(self, run: Run, dataset: Dataset | None = None) -> None:
        with no_command_line():
            self.config = Config(run.model, run.dataset, config_dict=dict(run.given))
        if dataset is None:
            key = run_key(run.model, effective_config(self.config), run.seed, config_data_hash(self.config))
            if key != run.key:
                raise UserError(f"the data or the defaults of {run} have changed since it was planned: start it again")
        init_logger(self.config)
        self.config.both_masks = True  # for the log
        seeds = self.config["seed"], self.config["reproducibility"]
        init_seed(*seeds)
        if dataset is None:
            dataset = create_dataset(self.config)
        else:
            dataset.config = self.config
        self.train, self.valid, test = data_preparation(self.config, dataset)
        self.test = loaders_by_mask(self.config, dataset, self.train, self.valid, test)
        init_seed(*seeds)
        started = perf_counter()
        self.model = get_model(run.model)(self.config, self.train._dataset).to(self.config["device"])
        built = perf_counter() - started
        is_closed = getattr(self.model, "type", None) is ModelType.TRADITIONAL
        self.computing_seconds = built if is_closed else getattr(self.model, "computing_seconds", 0.0)
        self.trainer = get_trainer(self.config["MODEL_TYPE"], run.model)(self.config, self.model)
        self.trainer.saved_model_file = str(run.checkpoint)

    def evaluate(self, checkpoint: Path) -> tuple[dict[str, dict[str, float]], dict[str, users.TopK]]:
        """Test a checkpoint.

        Returns:
            Scores by mask, and recommendations by mask (empty if the metrics do not rank).
        """
        scores, tops = {}, {}
        for mask, loader in self.test.items():
            with users.captured(self.trainer) as captured, unrounded(self.trainer):
                result = self.trainer.evaluate(
                    loader, model_file=str(checkpoint), show_progress=self.config["show_progress"]
                )
            scores[mask] = {name: float(value) for name, value in result.items()}
            if captured:
                (tops[mask],) = captured
        return scores, tops

    def write_users(self, path: Path, tops: dict[str, users.TopK]) -> str | None:
        """Write the results per user; returns the path as it stands in a record, None if there are no results."""
        if not tops:
            return None
        users.write(path, users.table(self.train._dataset, next(iter(self.test.values())), tops, self.config))
        return f"{path.parent.name}/{path.name}"


@contextlib.contextmanager
def unrounded(trainer) -> Iterator[None]:
    """Keep more decimals of scores than RecBole prints, for means, deviations and comparisons.

    Validation keeps RecBole's rounding, by which RecBole chooses the epoch.
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


def train(
    run: Run, on_epoch: Callable[[dict], None] | None = None, dataset: Dataset | None = None
) -> tuple[Session, Record]:
    """Train until validation stops it. ``run.checkpoint`` then has the best epoch; the test split is not used.

    Args:
        on_epoch: called after each validation with the epoch's entry of the curve.
        dataset: see :class:`Session`.

    Returns:
        The session, and the record of the run without test scores.

    Raises:
        UserError: data or defaults are not those that the run was resolved with, or the model has no validation score.
    """
    session = Session(run, dataset)
    trainer, config = session.trainer, session.config
    curve = curve_of(run)
    _resume(run, session, curve)
    with curve.following(trainer, on_epoch, session.computing_seconds):
        score, valid = trainer.fit(session.train, session.valid, show_progress=config["show_progress"])
    if not valid:
        raise UserError(
            f"{run.model} ended without a score on the validation split, by which its epoch would be chosen: give it "
            "one, or the settings of its last stage if it is a model that RecBole trains in stages"
        )
    record = replace(
        new_record(run),
        device=device_name(config["device"]),
        valid={name: float(value) for name, value in valid.items()},
        curve=curve.entries,
        best_epoch=curve.best_epoch(trainer.valid_metric, score),
        epochs=len(curve.entries),
        seconds=round(curve.seconds, 3),
        peak_memory_gib=round(peak_gib(config["device"]), 3),
        parameters=sum(p.numel() for p in session.model.parameters() if p.requires_grad),
    )
    return session, record


def curve_of(run: Run) -> Curve:
    """The curve of a training that is running or was interrupted; its file lies beside the checkpoint."""
    return Curve(run.checkpoint.with_suffix(".curve.jsonl"))


def _resume(run: Run, session: Session, curve: Curve) -> None:
    """Let the trainer continue from the run's checkpoint if there is one that fits the curve."""
    epoch = None
    if isinstance(session.trainer, MultimodalTrainer) and run.checkpoint.is_file():
        try:
            # the checkpoint also holds the best epoch, but a training continues from the latest one
            epoch = read_checkpoint(run.checkpoint)["resume"]["epoch"]
        except UserError as error:
            logging.getLogger().warning(f"{error}; the training of {run} starts again")
    if epoch is not None and curve.read_until(epoch):
        session.config["resume_from"] = str(run.checkpoint)
    else:
        curve.restart()


def _train_and_test(run: Run, per_user: Path | None) -> Record:
    session, record = train(run)
    scores, tops = session.evaluate(run.checkpoint)
    record = replace(
        record,
        test=scores,
        peak_memory_gib=round(peak_gib(session.config["device"]), 3),
        per_user=None if per_user is None else session.write_users(per_user, tops),
    )
    curve_of(run).remove()
    return record


# ------------------------------------------------------------------------------------------------------------
# records


def new_record(run: Run) -> Record:
    """The record of a run, without results."""
    return Record(
        key=run.key,
        group=run.group,
        label=run.label,
        model=run.model,
        dataset=run.dataset,
        seed=run.seed,
        overrides=run.overrides,
        config=run.config,
        data_hash=run.data_hash,
        versions=versions() | registry.versions(run.model),
        git=git_state(),
    )


def failure(run: Run, error: str) -> Record:
    """The record of a run that failed; ``error`` is a sentence."""
    return replace(new_record(run), status=FAILED, error=error)


def users_file(runs: str | os.PathLike, key: str) -> Path:
    """The file of the results per user of a run that is recorded in ``runs``."""
    return Path(runs).parent / "per_user" / f"{key}.parquet"


# ------------------------------------------------------------------------------------------------------------
# execution


def execute(run: Run, runs: str | os.PathLike, per_user: bool = True) -> Record:
    """Execute a run in this process and add its record to the file ``runs``; a failure is recorded, too.

    If the run was interrupted, a training of this package's models continues exactly from its checkpoint. RecBole's own
    trainers cannot do that: their trainings start again.

    Args:
        per_user: also write results per user.

    Returns:
        The record.

    Raises:
        UserError: ``per_user`` is set and polars is not installed.
        Busy: another process is executing this run.
        KeyboardInterrupt: nothing is recorded; the next call continues the run.
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
            record = failure(run, error_summary(error))
        store.append(runs, record)
        return record


@contextlib.contextmanager
def alone(run: Run) -> Iterator[None]:
    """Keep other processes from executing the run inside the block.

    Raises:
        Busy: another process is executing it.
    """
    run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    # the file is never deleted: two processes must not hold locks of two files of the same name
    with open(run.checkpoint.with_suffix(".lock"), "ab") as lock, contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise Busy(str(run)) from None
        yield


def execute_apart(run: Run, runs: str | os.PathLike, per_user: bool = True) -> Record:
    """:func:`execute` in a fresh process, whose memory is freed at its end and whose peak is that of this run alone.

    If the process is killed (for lack of memory, by a crash in native code), a failure is recorded.

    Raises:
        UserError, Busy, KeyboardInterrupt: as :func:`execute`; the process has ended by then.
    """
    if per_user:
        need("polars", "compare")
    try:
        record = call_apart(_execute_unless_busy, (run, os.fspath(runs), per_user))
    except UserError as error:
        record = failure(run, str(error))
        store.append(runs, record)
    if record is None:
        raise Busy(str(run))
    return record


def _execute_unless_busy(run: Run, runs: str, per_user: bool, report: Callable) -> Record | None:
    """:func:`execute` for :func:`call_apart`; None if another process is executing the run."""
    try:
        return execute(run, runs, per_user)
    except Busy:
        return None
