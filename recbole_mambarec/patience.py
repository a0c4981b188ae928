"""Early stopping on data sets of any size: patience that counts training steps, and a word about runs that never began.

RecBole stops a training after ``stopping_step`` evaluations without a better score. An epoch of a large data set is
hundreds of steps, one of a small data set a handful, so that the same patience is long for one and for the other ends
before the model has moved. The key ``stopping_min_steps`` says how many training steps every run may take first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger

from recbole_mambarec.compat.patching import replace, wrap

FIRST_IS_BEST = (
    "its best epoch is its first, so it may have stopped before it began to learn: try a smaller train_batch_size, "
    "another learning_rate, or more patience (stopping_min_steps, stopping_step)"
)


def install() -> None:
    """Give the key ``stopping_min_steps`` to all of RecBole's trainers; a second call changes nothing."""
    trainers = importlib.import_module("recbole.trainer.trainer")
    replace(trainers.Trainer, "patience", None)
    wrap(trainers.Trainer, "fit", _fit)
    wrap(trainers.NCLTrainer, "fit", _fit)  # a loop of its own
    wrap(trainers.Trainer, "_valid_epoch", _valid_epoch)


@dataclass
class Patience:
    """How many evaluations without a better score a training may make, given how many steps it has taken.

    Nothing here is remembered between two evaluations but their number, so that a resumed training stops where an
    uninterrupted one does.

    Attributes:
        evaluations: how many there have been since the training began, those before a resumption included.
        limit: the key ``stopping_step``.
        early: how many evaluations come before ``stopping_min_steps`` training steps; they do not count.
    """

    evaluations: int
    limit: int
    early: int

    @classmethod
    def of(cls, trainer, steps_per_epoch: int) -> Patience:
        """The patience of a RecBole trainer that is about to start or to go on."""
        between = max(trainer.eval_step, 1)
        least = trainer.config["stopping_min_steps"] or 0
        early = max(0, -(-least // (max(steps_per_epoch, 1) * between)) - 1)
        return cls(trainer.start_epoch // between, trainer.stopping_step, early)

    def evaluated(self, since_best: int) -> int:
        """Count an evaluation; how many in a row may have been without a better score after it.

        Args:
            since_best: evaluations without a better score before this one.
        """
        best = self.evaluations - since_best
        self.evaluations += 1
        return self.limit + max(0, min(self.early, self.evaluations) - best)

    def first_is_best(self, since_best: int) -> bool:
        """Whether none of several evaluations is better than the first.

        Args:
            since_best: evaluations without a better score.
        """
        return self.evaluations > 1 and self.evaluations - since_best == 1


def _fit(original: Callable, trainer, train_data, *args, **kwargs):
    """RecBole's ``fit`` with :class:`Patience`, and a warning where the best epoch is the first one."""
    patience = trainer.patience = Patience.of(trainer, len(train_data))
    try:
        result = original(trainer, train_data, *args, **kwargs)
    finally:
        trainer.stopping_step, trainer.patience = patience.limit, None
    # cur_step counts the evaluations since the best one
    if patience.first_is_best(trainer.cur_step):
        getLogger().warning(f"{trainer.config['model']} on {trainer.config['dataset']}: {FIRST_IS_BEST}")
    return result


def _valid_epoch(original: Callable, trainer, *args, **kwargs):
    """Called by RecBole right before it asks whether to stop, which ``stopping_step`` decides."""
    result = original(trainer, *args, **kwargs)
    if trainer.patience is not None:
        trainer.stopping_step = trainer.patience.evaluated(trainer.cur_step)
    return result


def first_is_best(record: dict) -> bool:
    """Whether the best epoch of a recorded run is the first of several that were evaluated."""
    evaluated = [entry["epoch"] for entry in record["curve"] if entry["valid"]]
    return len(evaluated) > 1 and record["best_epoch"] == evaluated[0]
