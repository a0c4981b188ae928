"""Losses, scores and times of each epoch, kept on disk while a training is running."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter


class Curve:
    """Losses, validation scores and seconds of each epoch, from any of RecBole's trainers.

    Args:
        path: JSON lines, one per finished epoch, so that an interrupted training can continue its curve.

    Attributes:
        entries: one dict per epoch, see :class:`~recbole_mambarec.experiments.store.Record`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict] = []
        self._written = 0

    def read_until(self, epoch: int) -> bool:
        """Read the epochs up to and including ``epoch`` from disk; False if some of them are missing."""
        entries = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # the last line of a process that was killed
                    entries.append(json.loads(line))
        # an epoch that was trained again after an interruption is listed twice
        by_epoch = {entry["epoch"]: entry for entry in entries}
        if any(number not in by_epoch for number in range(epoch + 1)):
            return False
        self.entries = [by_epoch[number] for number in range(epoch + 1)]
        self._written = len(self.entries)
        return True

    def restart(self) -> None:
        """Begin with an empty curve."""
        self.entries, self._written = [], 0
        self.remove()

    def remove(self) -> None:
        """Delete the file, once the record has the curve."""
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def following(
        self, trainer, on_epoch: Callable[[dict], None] | None = None, computing_seconds: float = 0.0
    ) -> Iterator[None]:
        """Record each epoch that ``trainer`` trains inside the block.

        Args:
            on_epoch: called with the entry of an epoch after its validation.
            computing_seconds: what closed forms took when the model was built, which counts as training of the first
                epoch; a run that continues has counted it.
        """
        train, valid = getattr(trainer, "_train_epoch", None), trainer._valid_epoch

        def train_epoch(train_data, epoch, *args, **kwargs):
            self._flush()
            started = perf_counter()
            losses = train(train_data, epoch, *args, **kwargs)
            named = _named(losses, trainer.model) | getattr(trainer, "losses_apart", {})
            self._begin(epoch, named, perf_counter() - started, computing_seconds)
            return losses

        def valid_epoch(*args, **kwargs):
            if len(self.entries) == self._written:  # decision trees are not trained in epochs
                self._begin(len(self.entries), {}, 0.0, computing_seconds)
            started = perf_counter()
            score, result = valid(*args, **kwargs)
            scores = {name: float(value) for name, value in result.items()}
            self.entries[-1] |= {"valid": scores, "valid_seconds": round(perf_counter() - started, 3)}
            # before RecBole writes the checkpoint: the curve on disk never ends earlier than the checkpoint
            self._flush()
            if on_epoch is not None:
                on_epoch(self.entries[-1])
            return score, result

        if train is not None:
            trainer._train_epoch = train_epoch
        trainer._valid_epoch = valid_epoch
        try:
            yield
            self._flush()
        finally:
            for name in ("_train_epoch", "_valid_epoch"):
                trainer.__dict__.pop(name, None)

    def _begin(self, epoch: int, losses: dict[str, float], seconds: float, computing: float) -> None:
        spent = seconds if self.entries else seconds + computing
        entry = {"epoch": epoch, "valid": None, "loss": losses, "train_seconds": round(spent, 3), "valid_seconds": 0.0}
        if spent > seconds:
            entry["computing_seconds"] = round(computing, 3)
        self.entries.append(entry)

    def _flush(self) -> None:
        if self._written < len(self.entries):
            with open(self.path, "a", encoding="utf-8") as stream:
                for entry in self.entries[self._written :]:
                    stream.write(json.dumps(entry) + "\n")
            self._written = len(self.entries)

    @property
    def seconds(self) -> float:
        """Seconds of training and validation over all epochs."""
        return sum(entry["train_seconds"] + entry["valid_seconds"] for entry in self.entries)

    def best_epoch(self, metric: str, score: float) -> int:
        """The last epoch that reached ``score`` in the validation metric: RecBole saves at ties."""
        return next(e["epoch"] for e in reversed(self.entries) if e["valid"] and e["valid"][metric] == score)


def _named(losses: float | tuple, model) -> dict[str, float]:
    """Name -> loss of an epoch, for which RecBole's trainer returns a number or a tuple."""
    if not isinstance(losses, tuple):
        return {"loss": float(losses)}
    names = getattr(model, "loss_names", None) or [f"loss{number}" for number in range(1, len(losses) + 1)]
    return dict(zip(names, map(float, losses)))
