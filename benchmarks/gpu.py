"""Training and ranking on a GPU: speed, memory, and whether the results are those of the CPU.

    python -m benchmarks.gpu [--model MambaRec] [--items 7050] [--steps 50] [--device cuda] [--key=value ...]
    python -m benchmarks.gpu --every [--items 700] [--device cuda]

Generated data in Amazon's proportions, features 4096 and 384 wide; float32 and bfloat16 (``enable_amp``), trainable and
frozen features. Printed per form: time of a step; the bytes that its kernels read and write (operands and results of
all operations), per second, as a share of what a plain copy reaches here; peak memory; time of an epoch with its
evaluation. Then: largest difference of losses, gradients and embeddings between GPU and CPU in float32, which may be
1e-4 of the largest value, and whether a step ever waits for the device. The last line is one JSON object; the exit code
is 1 where a check failed.

``--every`` makes these two checks for all models of the package, and times a step. A loss that draws from the generator
of the device cannot equal that of the CPU; of such models the scores alone are compared.

It needs this folder, the installed package and RecBole (without ray on Python 3.12: ``pip install --no-deps recbole``),
nothing else of the source tree. ``--device cpu`` tries the script where there is no GPU.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import functools
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import recbole_mambarec
from benchmarks.synthetic import sizes, write_dataset
from recbole_mambarec import registry
from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError, run_main

FORMS = {
    "float32, trainable": {"enable_amp": False, "freeze_features": False},
    "float32, frozen": {"enable_amp": False, "freeze_features": True},
    "bfloat16, trainable": {"enable_amp": True, "freeze_features": False},
    "bfloat16, frozen": {"enable_amp": True, "freeze_features": True},
}
TOLERANCE = 1e-4


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operations read and write; views count as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors if x.layout == torch.strided)
        return result


def prepare(model: str, dataset: str, data_path: str, device: str, **settings):
    """Trainer and loaders of a model."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings |= {"data_path": data_path, "show_progress": False, "epochs": 1, "gpu_id": "0" if device == "cuda" else ""}
    config = Config(model, dataset, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    built = get_model(model)(config, train._dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], model)(config, built), train, valid


def _first(loader, count: int) -> list:
    return list(itertools.islice(iter(loader), count))


def settle(device: str) -> None:
    """Wait for all work that was started on the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes, including what it starts on the device."""
    settle(device)
    started = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - started


def copy_bandwidth(device: str, size: int = 1 << 30) -> float:
    """Bytes per second that a copy on the device reads and writes."""
    source = torch.empty(size if device == "cuda" else size >> 4, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * 10 * source.numel() / seconds(device, lambda: [target.copy_(source) for _ in range(10)])


def measure(trainer, train, valid, device: str, steps: int) -> dict[str, float]:
    """Measurements of one form."""
    loss_of = trainer.model.calculate_loss
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.model.pre_epoch(0)
    few = _first(train, steps)
    trainer._train_steps(few[:3], 0, loss_of)
    step = seconds(device, lambda: trainer._train_steps(few, 0, loss_of)) / len(few)
    with Traffic() as traffic:
        trainer._train_steps(few[:1], 0, loss_of)
    trainer.eval_collector.data_collect(train)
    trainer._valid_epoch(valid)
    epoch = seconds(device, lambda: (trainer._train_epoch(train, 0), trainer._valid_epoch(valid)))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"step_ms": 1e3 * step, "gb_per_s": traffic.bytes / step / 1e9, "peak_gib": peak / 2**30, "epoch_s": epoch}


def _numbers(trainer, batch, seed: int) -> dict[str, Tensor]:
    """Losses and gradients for one batch, and the scores of its users, on the CPU."""
    from recbole_mambarec.data.loading import to_device

    model, batch = trainer.model.train(), to_device(batch, trainer.device)
    torch.manual_seed(seed)
    found = {}
    if any(p.requires_grad for p in model.parameters()):
        model.zero_grad()
        losses = model.calculate_loss(batch)
        losses = torch.stack(losses) if isinstance(losses, tuple) else losses
        losses.sum().backward()
        found = {"losses": losses} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        scores = model.eval().full_sort_predict(batch)
    found["scores"] = scores[scores.isfinite()]
    return {name: value.detach().float().cpu() for name, value in found.items()}


class Difference(NamedTuple):
    """Between the device and the CPU in float32.

    Attributes:
        largest: as a share of each array's largest value (of a thousandth of the largest gradient at least).
        where: name of the array that differs most.
        draws: the loss draws random numbers, so that only scores were compared.
    """

    largest: float
    where: str
    draws: bool


def difference_to_cpu(model: str, dataset: str, data_path: str, device: str) -> Difference:
    """Compare a model on the device with the same model on the CPU, the parameters being those of the latter."""
    settings: dict = {"enable_amp": False}
    if "dropout_prob" in default_properties("model", model):
        settings["dropout_prob"] = 0.0
    ours, *_ = prepare(model, dataset, data_path, device, **settings)
    theirs, train, _ = prepare(model, dataset, data_path, "cpu", **settings)
    state = {name: value.clone() for name, value in theirs.model.state_dict().items()}
    batch = next(iter(train))
    first = _numbers(theirs, batch, seed=1)
    theirs.model.load_state_dict(state)
    there = _numbers(theirs, batch, seed=2)
    ours.model.load_state_dict(state)
    here = _numbers(ours, batch, seed=2)
    draws = "losses" in there and not torch.equal(first["losses"], there["losses"])
    names = ["scores"] if draws else list(there)
    # the gradient of a bias in front of a BatchNorm is pure rounding error and cannot be its own scale
    floor = 1e-3 * max(float(there[name].abs().max()) for name in names)
    shares = {
        name: float((here[name] - there[name]).abs().max() / there[name].abs().max().clamp_min(floor)) for name in names
    }
    where = max(shares, key=shares.__getitem__)
    return Difference(shares[where], where, draws)


def waits(trainer, train, device: str) -> bool:
    """Whether a step waits for the device."""
    trainer.model.train()
    scaler = torch.amp.GradScaler(device, enabled=False)
    steps = [
        functools.partial(trainer._step, batch, trainer.model.calculate_loss, scaler) for batch in _first(train, 3)
    ]
    # the first steps may wait, because libraries initialise in them
    steps[0]()
    steps[1]()
    if device != "cuda":
        return False
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps[2]()
    except RuntimeError as error:
        print(f"a step waits for the device: {error}")
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def check_every(items: int, device: str, folder: str) -> dict[str, dict]:
    """Difference to the CPU, waits and seconds per step of all models; prints a line for each."""
    write_dataset(Path(folder) / "small", sizes(items), widths={"image": 64, "text": 32})
    rows: dict[str, dict] = {}
    print(f"{'model':14} difference to the CPU (of what)                waits   ms/step")
    for name in registry.built_in():
        found = difference_to_cpu(name, "small", folder, device)
        trainer, train, _ = prepare(name, "small", folder, device, enable_amp=False)
        row: dict = found._asdict() | {"waits": False, "step_ms": None}
        if any(p.requires_grad for p in trainer.model.parameters()):
            trainer.model.pre_epoch(0)
            row["waits"] = waits(trainer, train, device)
            few = _first(train, 5)
            steps = functools.partial(trainer._train_steps, few, 0, trainer.model.calculate_loss)
            row["step_ms"] = round(1e3 * seconds(device, steps) / len(few), 2)
        rows[name] = row
        what = f"{found.where}, its loss draws" if found.draws else found.where
        print(f"{name:14} {found.largest:.1e} ({what:40}) {row['waits']!s:7} {row['step_ms']}", flush=True)
    return rows


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="MambaRec")
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--items", type=int)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options, rest = parser.parse_known_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible: run this where there is one, or try the script with --device cpu")
    # RecBole parses the rest of the command line itself
    sys.argv = [sys.argv[0], *rest]
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, recbole_mambarec {recbole_mambarec.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if options.every:
            rows = check_every(options.items or 700, options.device, folder)
            os.chdir("/")
            failed = [name for name, row in rows.items() if row["waits"] or not row["largest"] <= TOLERANCE]
            print(json.dumps({"device": name, "models": rows}))
            print(f"{len(rows)} models, beyond {TOLERANCE:.0e} or waiting: {', '.join(failed) or 'none'}")
            return 1 if failed else 0
        write_dataset(Path(folder) / "generated", sizes(options.items or 7050), dtype="float16")
        where = (options.model, "generated", folder, options.device)
        copy = copy_bandwidth(options.device) / 1e9
        print(f"a copy moves {copy:.0f} GB/s")
        forms, waiting = {}, False
        for form, settings in FORMS.items():
            trainer, train, valid = prepare(*where, **settings)
            forms[form] = measure(trainer, train, valid, options.device, options.steps)
            waiting |= waits(trainer, train, options.device)
            row = forms[form]
            share = row["gb_per_s"] / copy
            print(
                f"{form:20} {row['step_ms']:8.2f} ms/step  {row['gb_per_s']:6.0f} GB/s ({share:.0%} of a copy)  "
                f"{row['peak_gib']:5.2f} GiB  {row['epoch_s']:7.2f} s/epoch",
                flush=True,
            )
            del trainer
        difference = difference_to_cpu(*where).largest
        # leave the folder before it is deleted
        os.chdir("/")
    passed = difference <= TOLERANCE and not waiting
    print(f"largest difference to the CPU {difference:.1e} (allowed {TOLERANCE:.0e}); steps wait: {waiting}")
    report = {name: {key: round(value, 4) for key, value in row.items()} for name, row in forms.items()}
    print(json.dumps({"copy_gb_per_s": round(copy, 1), "difference": difference, "waits": waiting, "forms": report}))
    return 0 if passed else 1


if __name__ == "__main__":
    run_main(main)
