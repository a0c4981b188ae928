"""Step time and peak memory of every model, on random data of Amazon Baby's size.

    python -m benchmarks.models [MODEL ...] [--threads N] [--steps N] [--widths image=4096 text=384]
                                [--sizes users=19445 items=7050 pairs=118551 batch=2048] [--settings key=value ...]

Without names: RecBole's BPR and LightGCN, and all models of this package, each with its own defaults. A model has a
process of its own, which measures itself: building it (with the search of item neighbours), what it does before each
epoch, and training steps, whose median time is printed. Peak memory is that of the process, data included. A table in
Markdown ends the output, with one JSON object as its last line; a model that fails has its error there and the exit
status is 1.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import yaml
from recbole.config import Config
from tqdm import tqdm

from benchmarks.step import Sizes, draw, step, total_loss
from recbole_mambarec import config, registry
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.memory import peak_gib

RECBOLE_MODELS = ("BPR", "LightGCN")
_WARM_UP = 2
COLUMNS = {
    "step_s": "s / step",
    "step_cpu_s": "CPU s / step",
    "epoch_hook_s": "s before an epoch",
    "build_s": "s to build",
    "peak_gib": "peak memory GiB",
    "parameters": "trained parameters",
}


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
    """Build a model in this process and train it for ``steps`` steps after a warm-up; the entries of ``COLUMNS``."""
    import torch
    from recbole.utils import get_model

    from recbole_mambarec.testing.data import batch, model_config

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours = name in registry.names()
    # RecBole's own models load no features
    dataset, nodes = draw(sizes if ours else replace(sizes, widths={}))
    known = defaults(name)
    chosen = known | {key: value for key, value in settings.items() if key in known} | {"train_batch_size": sizes.batch}
    started = time.perf_counter()
    model = get_model(name)(model_config(name, **chosen), dataset).train()
    built = time.perf_counter()
    if ours:
        model.pre_epoch(0)
    ready = time.perf_counter()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, **({"fused": True} if ours else {}))
    one_step = partial(step, partial(total_loss, model, batch(*nodes)), optimizer)
    times = []
    for _ in range(_WARM_UP + steps):
        wall, processor = time.perf_counter(), time.process_time()
        one_step()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = zip(*times[_WARM_UP:])
    return {
        "step_s": round(statistics.median(wall), 4),
        "step_cpu_s": round(statistics.median(processor), 4),
        "epoch_hook_s": round(ready - built, 3),
        "build_s": round(built - started, 1),
        "peak_gib": round(peak_gib(), 3),
        "parameters": sum(p.numel() for p in parameters),
    }


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
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task = json.loads(options.child)
        print(json.dumps(measure(**task | {"sizes": Sizes(**task["sizes"])})))
        return 0
    names, task = _task(options)
    measured: dict[str, dict] = {}
    try:
        with tqdm(names, unit="model") as progress:
            for name in progress:
                progress.set_postfix_str(name)
                measured[name] = in_child(name, task)
    finally:
        # an interrupted run prints what it has measured so far
        print(table(measured))
        record = task | {"sizes": asdict(Sizes(**task["sizes"])), "models": measured}
        print(json.dumps(record))
    return int(any("error" in values for values in measured.values()))


if __name__ == "__main__":
    run_main(main)
