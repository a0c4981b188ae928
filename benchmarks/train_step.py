"""One training step of MambaRec against a plain reading of the published code.

    python -m benchmarks.train_step [--quick] [--steps N]

The plain form and ours with trainable and with frozen features run in turn in one process on the same random data of
Amazon Baby's size (19 445 users, 7 050 items, 118 551 training pairs, features 4096 and 384 wide, d 64, batch 2048),
after a warm-up; medians and ratios are printed. Peak memory comes from a child process per form. ``--quick`` takes
fewer steps. The last line is one JSON object.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from recbole_mambarec.memory import peak_gib

FORMS = ("plain", "trainable", "frozen")


def make_steps(forms: tuple[str, ...]) -> dict[str, Callable[[], float]]:
    """Functions that do one training step each and return the loss."""
    from benchmarks.plain import PlainMambaRec
    from benchmarks.step import Sizes, draw, step, total_loss
    from recbole_mambarec.models.mambarec import MambaRec
    from recbole_mambarec.testing.data import batch, model_config

    dataset, nodes = draw(Sizes())
    steps = {}
    for form in forms:
        torch.manual_seed(0)
        config = model_config("MambaRec", freeze_features=form == "frozen")
        if form == "plain":
            data = dataset.training_data()
            graphs = {m: data.item_graph(m, config["knn_k"]) for m in data.modalities}
            graphs |= {"bipartite": data.bipartite, "user_item": data.user_item}
            tables = {m: torch.from_numpy(data.features(m)) for m in data.modalities}
            model = PlainMambaRec(data.n_users, tables, graphs, config)
            loss_of = partial(model.loss, *(torch.from_numpy(x) for x in nodes))
        else:
            model = MambaRec(config, dataset)
            loss_of = partial(total_loss, model, batch(*nodes))
        parameters = [p for p in model.train().parameters() if p.requires_grad]
        kind = {"foreach": False} if form == "plain" else {"fused": True}
        steps[form] = partial(step, loss_of, torch.optim.Adam(parameters, lr=1e-3, **kind))
    return steps


def measure_time(rounds: int, ours_per_round: int = 5) -> dict[str, float]:
    """Median seconds per step of each form, run in turn."""
    steps = make_steps(FORMS)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for form in FORMS:
            for _ in range(1 if form == "plain" else ours_per_round):
                start = time.perf_counter()
                steps[form]()
                seconds[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in seconds.items()}


def measure_memory(form: str) -> float:
    """Peak resident memory in GiB of a child process that does two steps of one form."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--child", form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, under two minutes")
    parser.add_argument("--steps", type=int, default=None, help="measured steps of the plain form")
    parser.add_argument("--child", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step = make_steps((options.child,))[options.child]
        for _ in range(2):
            step()
        print(peak_gib())
        return
    memory = {form: measure_memory(form) for form in FORMS}
    times = measure_time(options.steps or (1 if options.quick else 5))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    report = {}
    for form in FORMS:
        speedup, share = times["plain"] / times[form], memory[form] / memory["plain"]
        figures = f"{times[form]:7.3f} s  {memory[form]:5.2f} GiB"
        print(f"{form:10} {figures}  {speedup:5.1f} times faster, {share:.2f} of the memory")
        if form != "plain":
            report |= {f"speedup_{form}": round(speedup, 2), f"memory_{form}": round(share, 3)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
