"""Cost of every model on random data of Amazon Baby's size, beside what its arithmetic needs.

    python -m benchmarks.models [MODEL ...] [--threads N] [--steps N] [--widths image=4096 text=384]
                                [--sizes users=19445 items=7050 pairs=118551 batch=2048] [--settings key=value ...]
                                [--log FILE] [--page FILE]

Without names: RecBole's BPR and LightGCN, and all models of this package, each with its own defaults. A model has a
process of its own, which measures itself: building it (with the search of item neighbours), what it does before each
epoch, training steps, of which the fastest counts, and an evaluation of all users. Peak memory is that of the process
in training, data included. What arithmetic needs (:mod:`benchmarks.need`) follows from the speeds of products and of
memory in the same process. A table in Markdown ends the output, with one JSON object as its last line; a model that
fails has its error there and the exit status is 1.

With ``--log``, what is measured is added to that file at once, and models that it has under the same options are not
measured again. ``--page`` writes the table as a page, to which results/notes/models.md is added.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import yaml
from recbole.config import Config
from tqdm import tqdm

from benchmarks.need import Need, Speeds, measure_speeds
from benchmarks.step import Sizes, Training, draw, evaluate
from recbole_mambarec import config, registry
from recbole_mambarec.allocator import keep_freed_memory
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.memory import peak_gib

RECBOLE_MODELS = ("BPR", "LightGCN")
_WARM_UP = 2
COLUMNS = {
    "step_cpu_s": "CPU s / step",
    "product_s": "need: products s",
    "memory_s": "need: memory s",
    "ratio": "step / need",
    "epoch_cpu_s": "CPU s / epoch",
    "evaluation_cpu_s": "CPU s / evaluation",
    "evaluation_ratio": "evaluation / need",
    "before_epoch_cpu_s": "of the epoch, before its steps",
    "build_s": "s to build",
    "peak_gib": "peak memory GiB",
    "parameters": "trained parameters",
    "gflops": "Gflop/s",
    "gbytes": "GB/s",
}
# CPU seconds per epoch and per evaluation of MMRec's code on one core of a machine of the same kind, on Amazon Baby
# with stand-in features 512 and 384 wide
MMREC = {"FREEDOM": (7.6, 3.4), "VBPR": (3.2, 3.4), "MGCN": (19.4, 3.6), "BM3": (8.9, 3.4), "PGL": (18.9, 3.7)}
_NOTES = Path(__file__).resolve().parents[1] / "results" / "notes" / "models.md"


def defaults(name: str) -> dict:
    """Default settings of a model, ours or RecBole's."""
    if name in registry.names():
        return config.default_properties("model", name)
    import recbole

    file = Path(recbole.__file__).parent / "properties" / "model" / f"{name}.yaml"
    return _read_yaml(file.read_text(encoding="utf-8")) or {}


def _read_yaml(text: str) -> object:
    # RecBole's YAML loader, which reads 1e-05 as a number
    return yaml.load(text, Loader=Config._build_yaml_loader(None))


def measure(name: str, sizes: Sizes, steps: int, threads: int, settings: dict) -> dict:
    """Build a model in this process, train it for ``steps`` steps, evaluate; the entries of ``COLUMNS``.

    An epoch is what comes before its steps, the first step, and the fastest step for each of the others.
    """
    import torch
    from recbole.utils import ModelType, get_model

    from recbole_mambarec.testing.data import batch, model_config

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_freed_memory()
    at_first = measure_speeds()
    ours = name in registry.names()
    # RecBole's own models load no features
    dataset, nodes = draw(sizes if ours else replace(sizes, widths={}))
    known = defaults(name)
    chosen = known | {key: value for key, value in settings.items() if key in known} | {"train_batch_size": sizes.batch}
    config = model_config(name, **chosen)
    started = time.perf_counter()
    model = get_model(name)(config, dataset)
    built = time.perf_counter()
    training, rows = Training(model, ours), batch(*nodes)
    trains = model.type is not ModelType.TRADITIONAL
    one_step = partial(training.step, rows) if trains else lambda: None
    for function in (training.begin_epoch, *[one_step] * _WARM_UP):
        function()
    before, first, *others = (_seconds(function) for function in (training.begin_epoch, *[one_step] * (steps + 1)))
    peak = peak_gib()
    with Need() as of_step:
        one_step()
    one_evaluation = partial(evaluate, model, config, dataset)
    evaluations = [_seconds(one_evaluation)[1] for _ in range(2)]
    with Need() as of_evaluation:
        model.train()
        one_evaluation()
    # the machine does other work, too: what counts is the faster of two measurements
    speeds = Speeds(*map(max, zip(at_first, measure_speeds())))
    product, memory = of_step.seconds(speeds)
    fastest = min(processor for _, processor in others) if trains else 0.0
    epoch = before[1] + (first[1] + fastest * (-(-sizes.pairs // sizes.batch) - 1) if trains else 0.0)
    return {
        "step_cpu_s": round(fastest, 4),
        "product_s": round(product, 4),
        "memory_s": round(memory, 4),
        "ratio": round(fastest / (product + memory), 2) if trains else 0.0,
        "epoch_cpu_s": round(epoch, 2),
        "evaluation_cpu_s": round(min(evaluations), 2),
        "evaluation_ratio": round(min(evaluations) / sum(of_evaluation.seconds(speeds)), 2),
        "before_epoch_cpu_s": round(before[1], 3),
        "build_s": round(built - started, 1),
        "peak_gib": round(peak, 3),
        "parameters": sum(p.numel() for p in training.parameters) if trains else 0,
        "gflops": round(speeds.product / 1e9, 1),
        "gbytes": round(speeds.memory / 1e9, 1),
    }


def _seconds(function: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of CPU time."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def in_child(name: str, task: dict) -> dict:
    """:func:`measure` in its own process; ``{"error": ...}`` if it failed."""
    threads = str(task["threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "benchmarks.models", "--child", json.dumps(task | {"name": name})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0:
        return {"error": lines[-1] if lines else f"killed by signal {-done.returncode}"}
    return json.loads(lines[-1])


def table(measured: dict[str, dict]) -> str:
    """Markdown, one row per model."""
    lines = [f"| model | {' | '.join(COLUMNS.values())} |", "|" + "---|" * (len(COLUMNS) + 1)]
    for name, values in measured.items():
        cells = [values["error"]] if "error" in values else [f"{values[key]:,}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(measured: dict[str, dict], task: dict, command: str) -> str:
    """The page of results: what was measured and how, the table, MMRec's figures beside it, and the notes."""
    sizes = task["sizes"]
    widths = " and ".join(f"{modality} {width}" for modality, width in sizes["widths"].items())
    text = f"""<!-- Written by `{command}`; notes are in results/notes/models.md. -->

# Cost of every model

The data are random and of Amazon Baby's size ({sizes["users"]:,} users, {sizes["items"]:,} items, {sizes["pairs"]:,}
training pairs; features: {widths} wide). Settings: the default ones, d 64, batches of {sizes["batch"]:,}, float32,
threads: {task["threads"]}, torch {task["torch"]}. The time of a step is that of the fastest of {task["steps"]}. The
peak memory is that of a training in a process of its own, data included.

The **need** is the time that the operations of a step (forward, backward, optimizer) would take at the speeds of the
last two columns. The same process measured these speeds with a square product and a sum of two large arrays. A dense
product needs its floating-point operations, or the passes over its operands if these take longer. A sparse product
reads a row for each entry, Adam needs seven passes over the parameters, and any other operation needs one pass over
its arguments and results. Copies, fills and concatenations count as nothing.

{table(measured)}

```
{command}
```
"""
    beside = [
        f"| {name} | {epoch} + {evaluation} | {measured[name]['epoch_cpu_s']} + {measured[name]['evaluation_cpu_s']} |"
        for name, (epoch, evaluation) in MMREC.items()
        if "epoch_cpu_s" in measured.get(name, {})
    ]
    if beside and sizes["widths"] == {"image": 512, "text": 384}:
        rows = "\n".join(beside)
        text += f"""
## Beside MMRec's code

The table shows CPU seconds per epoch and per evaluation on one core. MMRec's were measured on Amazon Baby itself, with
stand-in features of the same widths, on a machine of the same kind.

| model | MMRec | here |
|---|---|---|
{rows}
"""
    return text + ("\n" + _NOTES.read_text(encoding="utf-8") if _NOTES.is_file() else "")


def read_log(log: Path | None, task: dict) -> dict[str, dict]:
    """What a file has under the same options; a model that failed is measured again."""
    if log is None or not log.is_file():
        return {}
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {e["model"]: e["values"] for e in entries if e["task"] == task and "error" not in e["values"]}


def _pairs(texts: list[str] | None) -> dict:
    """``key=value`` arguments as a dictionary of YAML values."""
    if any("=" not in text for text in texts or []):
        raise UserError(f"'{next(t for t in texts if '=' not in t)}' is not understood: write key=value")
    return {key: _read_yaml(value) for key, _, value in (text.partition("=") for text in texts or [])}


def _whole(option: str, values: dict) -> dict[str, int]:
    wrong = [f"{key}={value}" for key, value in values.items() if type(value) is not int or value < 1]
    if wrong:
        raise UserError(f"{option} {wrong[0]} is not understood: give whole numbers from 1")
    return values


def _task(options: argparse.Namespace) -> tuple[list[str], dict]:
    """Model names and the other arguments of :func:`measure`, checked."""
    known = [*RECBOLE_MODELS, *registry.names()]
    names = list(dict.fromkeys(options.models or known))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"there is no model '{unknown[0]}' to measure: choose among {', '.join(known)}")
    sizes = _whole("--sizes", _pairs(options.sizes))
    allowed = [key for key in asdict(Sizes()) if key != "widths"]
    if set(sizes) - set(allowed):
        raise UserError(f"--sizes {min(set(sizes) - set(allowed))} is unknown: give {', '.join(allowed)}")
    if options.widths is not None:
        sizes["widths"] = _whole("--widths", _pairs(options.widths))
    settings = _pairs(options.settings)
    useless = [key for key in settings if not any(key in defaults(name) for name in names)]
    if useless:
        raise UserError(f"--settings {useless[0]} is a key of none of the models {', '.join(names)}")
    _whole("--steps and --threads", {"steps": options.steps, "threads": options.threads})
    return names, {"sizes": sizes, "steps": options.steps, "threads": options.threads, "settings": settings}


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names; default: all")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (default 2)")
    parser.add_argument("--steps", type=int, default=10, help="measured steps per model (default 10)")
    parser.add_argument("--widths", nargs="*", metavar="MODALITY=WIDTH", help="default image=4096 text=384")
    parser.add_argument("--sizes", nargs="*", metavar="KEY=NUMBER", help="users, items, pairs, batch")
    parser.add_argument("--settings", nargs="*", metavar="KEY=VALUE", help="for the models that have the key")
    parser.add_argument("--log", metavar="FILE", help="keep what is measured there, and continue from it")
    parser.add_argument("--page", metavar="FILE", help="write the table as a page")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task = json.loads(options.child)
        print(json.dumps(measure(**task | {"sizes": Sizes(**task["sizes"])})))
        return 0
    names, task = _task(options)
    log, output = (Path(name) if name else None for name in (options.log, options.page))
    described = task | {"sizes": asdict(Sizes(**task["sizes"])), "torch": version("torch")}
    known = read_log(log, described)
    measured = {name: known[name] for name in names if name in known}
    try:
        with tqdm([name for name in names if name not in known], unit="model") as progress:
            for name in progress:
                progress.set_postfix_str(name)
                measured[name] = in_child(name, task)
                if log is not None:
                    with log.open("a", encoding="utf-8") as file:
                        print(json.dumps({"task": described, "model": name, "values": measured[name]}), file=file)
    finally:
        # an interrupted run prints what it has measured so far
        measured = {name: measured[name] for name in names if name in measured}
        if output is not None:
            output.write_text(page(measured, described, _command()), encoding="utf-8")
        print(table(measured))
        print(json.dumps(described | {"models": measured}))
    return int(any("error" in values for values in measured.values()))


def _command() -> str:
    return " ".join(["python -m benchmarks.models", *sys.argv[1:]])


if __name__ == "__main__":
    run_main(main)
