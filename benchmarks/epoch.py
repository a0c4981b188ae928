"""Where the time of an epoch goes: steps, data loading, negative sampling, evaluation, checkpoints.

    python -m benchmarks.epoch [--models MambaRec,VBPR,FREEDOM] [--epochs N] [--key=value ...]

Trains on generated data of Amazon Baby's size (features 4096 and 384 wide; ``--dataset`` and ``--data_path`` name a
prepared dataset instead) through RecBole's own loop. The first epoch warms up and is not counted. Checkpoints are
charged as if every epoch were an improvement, which is copied, and as if the run were long: a write, timed here, is
shared by the epochs that fit into ``checkpoint_interval``. Everything is given by the clock and in time of all cores
together: beside other work, the shares of the latter are the steadier ones. The last line is one JSON object.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.synthetic import BABY, write_dataset

TERMS = ("step", "loading", "sampling", "evaluation", "checkpoint", "other")


class Shares:
    """Wall-clock and CPU seconds per term; time in a nested term counts for that term only."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.cpu_seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = time.perf_counter(), time.process_time()

    def _charge(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now[0] - self._since[0]
            self.cpu_seconds[self._running[-1]] += now[1] - self._since[1]
        self._since = now

    @contextlib.contextmanager
    def term(self, name: str) -> Iterator[None]:
        """Count the time of the block for ``name``."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Count the time of every call of ``owner.method`` for ``name``."""
        original: Callable = getattr(owner, method)

        def timed(*args, **kwargs):
            self.calls[name] += 1
            with self.term(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


class _TimedLoader:
    """Wraps a data loader; the time its batches take counts as ``loading``."""

    def __init__(self, loader, shares: Shares) -> None:
        self._loader, self._shares = loader, shares

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        with self._shares.term("loading"):
            batches = iter(self._loader)
        while True:
            with self._shares.term("loading"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def measure(model: str, dataset: str, data_path: str, epochs: int) -> dict[str, dict[str, float]]:
    """For one model and each clock: seconds per epoch and per write, and the share of each term."""
    import recbole_mambarec  # noqa: F401  isort: skip
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings = {"data_path": data_path, "epochs": epochs + 1, "show_progress": False}
    config = Config(model, dataset, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], model)(
        config, get_model(model)(config, train._dataset).to(config["device"])
    )
    shares = Shares()
    shares.wrap(train, "_neg_sampling", "sampling")
    shares.wrap(trainer, "_train_epoch", "step")
    shares.wrap(trainer, "_valid_epoch", "evaluation")
    shares.wrap(trainer, "_save_checkpoint", "checkpoint")
    shares.wrap(trainer, "_write", "write")

    def after_epoch(epoch: int, score: float) -> None:
        trainer.best_valid_score = -float("inf")
        if epoch == 0:
            shares.seconds.clear()
            shares.cpu_seconds.clear()

    with shares.term("other"):
        trainer.fit(_TimedLoader(train, shares), valid, verbose=False, callback_fn=after_epoch)
    report = {}
    for clock, counted in (("clock", shares.seconds), ("cpu", shares.cpu_seconds)):
        write = counted.pop("write") / shares.calls["write"]
        terms = {term: counted[term] / epochs for term in TERMS}
        if clock == "clock":
            writes_per_epoch = min(1.0, sum(terms.values()) / max(config["checkpoint_interval"], 1e-9))
        terms["checkpoint"] += write * writes_per_epoch
        seconds = sum(terms.values())
        shown = {"seconds": seconds, "write_seconds": write} | {term: value / seconds for term, value in terms.items()}
        report[clock] = {name: round(value, 4) for name, value in shown.items()}
    return report


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", default="MambaRec,VBPR,FREEDOM")
    parser.add_argument("--dataset", default=None, help="prepared dataset; generated data by default")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--epochs", type=int, default=3, help="measured epochs, after one warm-up epoch")
    options, rest = parser.parse_known_args()
    # RecBole parses the rest of the command line itself
    sys.argv = [sys.argv[0], *rest]
    with tempfile.TemporaryDirectory() as temporary:
        dataset, data_path = options.dataset, str(Path(options.data_path).resolve())
        if dataset is None:
            dataset, data_path = "generated", temporary
            write_dataset(Path(temporary) / dataset, BABY)
        # RecBole writes logs and checkpoints to the current folder
        os.chdir(temporary)
        report = {m: measure(m, dataset, data_path, options.epochs) for m in options.models.split(",")}
        os.chdir("/")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'model':10} {'':5} {'s/epoch':>8} {'s/write':>8}  " + "  ".join(f"{term:>10}" for term in TERMS))
    for model, clocks in report.items():
        for clock, row in clocks.items():
            shares = "  ".join(f"{row[term]:10.1%}" for term in TERMS)
            print(f"{model:10} {clock:5} {row['seconds']:8.2f} {row['write_seconds']:8.2f}  {shares}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
