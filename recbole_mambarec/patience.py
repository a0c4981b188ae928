"""Early stopping on datasets of any size: a minimum of training steps, and a warning if a run has learned nothing.

RecBole stops a training after ``stopping_step`` evaluations without a better score. An epoch of a large dataset has
hundreds of steps, one of a small dataset a handful. The same patience is then long for the former, and ends for the
latter before the model has learned anything. The key ``stopping_min_steps`` is the number of training steps that every
run takes before patience counts.
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
    wrap(trainers.NCLTrainer, "fit", _fit)  # it has a training loop of its own
    wrap(trainers.Trainer, "_valid_epoch", _valid_epoch)


@dataclass
class Patience:
    """How many evaluations in a row may pass without a better score, depending on the number of steps so far.

    The only state is the number of evaluations, so that a resumed training stops where an uninterrupted one does.

    Attributes:
        evaluations: their number since the training began, including those before it was resumed.
        limit: the key ``stopping_step``.
        early: number of evaluations within the first ``stopping_min_steps`` training steps, which do not count.
    """

    evaluations: int
    limit: int
    early: int

    @classmethod
    def of(cls, trainer, steps_per_epoch: int) -> Patience:
        """The patience of a RecBole trainer that is about to start or to continue."""
        between = max(trainer.eval_step, 1)
        min_steps = trainer.config["stopping_min_steps"] or 0
        early = max(0, -(-min_steps // (max(steps_per_epoch, 1) * between)) - 1)
        return cls(trainer.start_epoch // between, trainer.stopping_step, early)

    def evaluated(self, since_best: int) -> int:
        """Count an evaluation.

        Args:
            since_best: evaluations since the best one, before this one.

        Returns:
            How many evaluations in a row may pass without a better score from now on.
        """
        best = self.evaluations - since_best
        self.evaluations += 1
        return self.limit + max(0, min(self.early, self.evaluations) - best)

    def first_is_best(self, since_best: int) -> bool:
        """Whether there have been several evaluations, and none of them is better than the first.

        Args:
            since_best: evaluations since the best one.
        """
        return self.evaluations > 1 and self.evaluations - since_best == 1


def _fit(original: Callable, trainer, train_data, *args, **kwargs):
    """RecBole's ``fit`` with :class:`Patience`, and a warning if the best epoch is the first one."""
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
    """RecBole calls this right before it compares ``cur_step`` with ``stopping_step``."""
    result = original(trainer, *args, **kwargs)
    if trainer.patience is not None:
        trainer.stopping_step = trainer.patience.evaluated(trainer.cur_step)
    return result


def first_is_best(curve: list[dict], best_epoch: int) -> bool:
    """Whether the best epoch of a run is the first of several that were evaluated.

    Args:
        curve: an entry per epoch (:class:`~recbole_mambarec.experiments.store.Record`).
    """
    evaluated = [entry["epoch"] for entry in curve if entry["valid"]]
    return len(evaluated) > 1 and best_epoch == evaluated[0]
