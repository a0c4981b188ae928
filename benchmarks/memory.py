"""Peak memory: of the tensors of a training step, and of whole runs compared with the estimate.

    python -m benchmarks.memory
    python -m benchmarks.memory --grid FOLDER [MODEL ...]

The first prints, for every model, the float32 arrays of users, items, edges and the batch that a step holds (in any
case, per modality), from which the models' ``step_memory`` is written, and how far off the estimate made with that is.

The second trains and evaluates every model, each time in a process of its own, on generated data in FOLDER, over a
grid of catalogues and batches, some larger than the data, and prints how much the resident memory of each grew beyond
what it was when the model was about to be built, beside the estimate (results/memory.md). Processes are forked from
one that has imported everything; pages of files that are mapped, which the system can drop at any time, are left out.
What was measured is kept in FOLDER/measured.jsonl: a second call measures only what is missing there, and estimates all
with the present code.

Nothing is timed: both can run beside other work.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from tqdm import tqdm

from benchmarks.synthetic import write_dataset
from recbole_mambarec import memory, registry
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.layers import losses
from recbole_mambarec.testing.data import InMemoryDataset, batch, model_config
from recbole_mambarec.testing.memory import step_peak

# ---------------------------------------------------------------------- tensors of a step


class Shape(NamedTuple):
    """Random data: users, items, training interactions, pairs of the batch, modalities."""

    users: int
    items: int
    pairs: int
    batch: int = 64
    modalities: int = 2


_WIDTHS = {"image": 512, "text": 384}
# the coefficients are those of a least squares fit over these
_SHAPES = [
    Shape(users, items, pairs, 64, m)
    for users, items, pairs in [(6000, 2000, 30_000), (6000, 2000, 60_000), (3000, 3000, 30_000), (6000, 3000, 40_000)]
    for m in (1, 2)
] + [Shape(300, 200, 5000, batch, m) for batch in (2000, 4000) for m in (1, 2)]


def _measure(name: str, shape: Shape, freeze: bool) -> tuple[int, int]:
    """(measured, estimated) bytes of a step on random data, whose features stay on disk."""
    rng = np.random.default_rng(0)
    widths = dict(list(_WIDTHS.items())[: shape.modalities])
    features = {m: rng.normal(size=(shape.items, width)).astype(np.float32) for m, width in widths.items()}
    users, items = rng.integers(0, shape.users, shape.pairs), rng.integers(0, shape.items, shape.pairs)
    dataset = InMemoryDataset(users, items, shape.users, shape.items, features, on_disk=True)
    config = model_config(name, freeze_features=freeze, train_batch_size=shape.batch)
    torch.manual_seed(0)
    model = get_model(name)(config, dataset)
    rows = slice(shape.batch)
    estimate = memory.need(model.memory_of(config, model.data), config, model.data)
    peak = step_peak(model, batch(users[rows], items[rows], rng.integers(0, shape.items, shape.batch)))
    return peak, estimate.features + estimate.step


def print_arrays() -> None:
    """Arrays that every model holds, and the estimate divided by the measurement."""
    # blocks of pairs have a fixed size, which does not grow with the batch
    losses._PAIRS_AT_A_TIME = {"cpu": 1 << 16}
    print(f"{'model':10} users          items          edges          batch          estimate / measured")
    for name in registry.names():
        # coefficients of users, items, edges and the batch: a constant one and one per modality for each
        counts = [np.ravel([[n, n * shape.modalities] for n in shape[:4]]) * 64 * 4 for shape in _SHAPES]
        frozen = [_measure(name, shape, True) for shape in _SHAPES]
        found, *_ = np.linalg.lstsq(np.array(counts), np.array([measured for measured, _ in frozen]), rcond=None)
        trained = [_measure(name, shape, False) for shape in _SHAPES[2:6]]
        # with large batches, feature rows read from disk are not tensors and are not measured here
        small = [pair for shape, pair in zip(_SHAPES, frozen) if shape.batch == 64]
        shares = [estimate / measured for measured, estimate in small + trained]
        arrays = "  ".join(f"({a:5.1f}, {b:4.1f})" for a, b in found.reshape(4, 2))
        print(f"{name:10} {arrays}  {min(shares):.2f} to {max(shares):.2f}", flush=True)


# ---------------------------------------------------------------------- whole runs

# users, items, interactions (of each user two are not trained on), and feature widths
_CATALOGUES = {
    "small": ((1200, 1000, 9900), {"image": 4096, "text": 384}),
    "medium": ((20_000, 20_000, 140_000), {"image": 256, "text": 128}),
    "large": ((100_000, 60_000, 600_000), {"image": 64, "text": 32}),
}
# models that compare all rows of a batch with each other: a batch of 100 000 takes hours, but no more memory
_CONTRASTING = ("MambaRec", "CRANE", "MGCN", "LGMRec", "SLMRec", "PGL", "SMORE", "GUME")
# blocks of users to rank: the second is scored while the first is still in memory
_BLOCKS = 3


class Cell(NamedTuple):
    """A run: model, catalogue, ``frozen`` or ``trainable`` features, ``train_batch_size``."""

    model: str
    catalogue: str
    form: str
    batch: int

    @property
    def settings(self) -> dict:
        """Configuration of the run."""
        return {"freeze_features": self.form == "frozen", "train_batch_size": self.batch}


def cells(models: list[str]) -> list[Cell]:
    """The grid; batches of 65 536 on ``small`` and those from 200 000 on are larger than the data."""
    found = [Cell(m, "medium", "frozen", 2048) for m in models]
    found += [Cell(m, "small", "frozen", 65_536) for m in models]
    found += [Cell(m, "medium", "frozen", 200_000) for m in models if m not in _CONTRASTING]
    found += [Cell(m, "small", "trainable", 2048 if m in _CONTRASTING else 65_536) for m in models]
    found += [Cell(m, "medium", "frozen", 8192) for m in models if m in _CONTRASTING]
    found += [Cell(m, "large", "frozen", 2048) for m in models if m in ("VBPR", "FREEDOM", "MambaRec")]
    return found + [Cell(m, "large", "frozen", 600_000) for m in models if m in ("VBPR", "BM3")]


def _status(field: str) -> int:
    """Bytes in a field of ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _first(loader, count: int):
    """The loader, cut off after ``count`` batches."""

    class First(type(loader)):
        def __iter__(self) -> Iterator:
            return itertools.islice(super().__iter__(), count)

        def __len__(self) -> int:
            return min(count, super().__len__())

    loader.__class__ = First
    return loader


def run_cell(folder: Path, cell: Cell) -> dict:
    """Two epochs of one step, with their evaluations and a checkpoint, and the test, in this process.

    Returns:
        ``growth``: bytes by which resident memory was larger at its peak than when the model was about to be built,
        mapped files left out; ``data``: what :func:`~recbole_mambarec.memory.need` looks at.
    """
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    saved = folder / f"saved-{os.getpid()}"
    settings = cell.settings | {"data_path": str(folder), "cache_dir": str(folder / "cache"), "epochs": 2}
    settings |= {"checkpoint_dir": str(saved), "eval_step": 1, "show_progress": False}
    config = Config(cell.model, cell.catalogue, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    found = cell._asdict()

    def check(name: str, use: memory.StepMemory, config, data, changed_use: object = None) -> None:
        """Replaces the check, to record the estimate at the same point without refusing anything."""
        found["data"] = {"n_users": data.n_users, "n_items": data.n_items, "pairs": len(data.users)}
        found["data"]["features"] = {m: (*data.features(m).shape, data.in_memory(m)) for m in data.modalities}
        # resets the peak
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        found["growth"] = -_status("RssAnon")

    memory.check = check
    try:
        model = get_model(cell.model)(config, train._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], cell.model)(config, model)
        trainer.fit(_first(train, 1), _first(valid, _BLOCKS), verbose=False)
        trainer.evaluate(_first(test, _BLOCKS))
    finally:
        shutil.rmtree(saved, ignore_errors=True)
    found["growth"] += _status("VmHWM") - _status("RssFile")
    return found


def forked(folder: Path, cell: Cell) -> dict | str:
    """:func:`run_cell` in its own process; returns the error message if it failed."""
    import recbole.quick_start  # noqa: F401  (what a run has imported before it builds a model)

    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        try:
            return pool.submit(run_cell, folder, cell).result()
        except Exception as error:  # whatever it was, the other cells are still wanted
            return f"{type(error).__name__}: {error}"


def estimated(measured: dict) -> int:
    """The package's estimate for a run that :func:`run_cell` has measured."""
    cell, facts = Cell(*(measured[key] for key in Cell._fields)), measured["data"]
    features = facts["features"]
    data = SimpleNamespace(
        n_users=facts["n_users"],
        n_items=facts["n_items"],
        users=range(facts["pairs"]),
        modalities=list(features),
        features=lambda m: SimpleNamespace(shape=tuple(features[m][:2])),
        in_memory=lambda m: features[m][2],
    )
    config = model_config(cell.model, **cell.settings)
    return memory.need(get_model(cell.model).memory_of(config, data), config, data).total


def run_grid(folder: Path, models: list[str]) -> int:
    """Measure missing cells and print all of them; exit status 1 if a run failed."""
    unknown = [name for name in models if name not in registry.names()]
    if unknown:
        raise UserError(f"there is no model '{unknown[0]}' to measure: choose among {', '.join(registry.names())}")
    grid = cells(models or registry.names())
    for name in dict.fromkeys(cell.catalogue for cell in grid):
        if not (folder / name).is_dir():
            size, widths = _CATALOGUES[name]
            write_dataset(folder / name, size, widths, dtype="float16")
    kept = folder / "measured.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    known = {Cell(*(row[key] for key in Cell._fields)): row for row in map(json.loads, lines)}
    failed = []
    for cell in tqdm([cell for cell in grid if cell not in known], unit="run"):
        row = forked(folder, cell)
        if isinstance(row, str):
            failed.append(f"{' '.join(map(str, cell))}: {row}")
            continue
        known[cell] = row
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print("| model | catalogue | features | train_batch_size | peak growth MiB | estimate MiB | estimate / peak |")
    print("|---|---|---|---|---|---|---|")
    ratios = []
    for cell in sorted(set(grid) & set(known)):
        growth, foretold = known[cell]["growth"], estimated(known[cell])
        ratios.append(foretold / growth)
        figures = f"{growth / 2**20:,.0f} | {foretold / 2**20:,.0f} | {ratios[-1]:.2f}"
        print(f"| {cell.model} | {cell.catalogue} | {cell.form} | {cell.batch:,} | {figures} |")
    if ratios:
        print(f"\n{len(ratios)} runs, estimate / peak from {min(ratios):.2f} to {max(ratios):.2f}")
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    return int(bool(failed))


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="with --grid: names; default: all")
    parser.add_argument("--grid", type=Path, metavar="FOLDER", help="measure whole runs; keep them in this folder")
    options = parser.parse_args()
    if options.grid:
        if not Path("/proc/self/clear_refs").is_file():
            raise UserError("--grid needs Linux's account of a process (/proc/self/clear_refs): run it on Linux")
        return run_grid(options.grid.resolve(), options.models)
    print_arrays()
    return 0


if __name__ == "__main__":
    run_main(main)
