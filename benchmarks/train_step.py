"""One training step of MambaRec against a plain reading of the published code.

    python -m benchmarks.train_step [--quick] [--steps N]

Both forms run in turn in one process on the same random data of Amazon Baby's size (19 445 users, 7 050 items, 118 551
training pairs, features 4096 and 384 wide, d 64, batch 2048), after a warm-up; medians and ratios are printed. Peak
memory comes from a child process per form. ``--quick`` takes fewer steps. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SIZES = {"n_users": 19445, "n_items": 7050, "pairs": 118551, "dims": {"image": 4096, "text": 384}, "batch": 2048}


def make_steps(forms: list[str], frozen: bool) -> dict[str, Callable[[], float]]:
    """Functions that do one training step each and return the loss; forms are ``plain`` and ``ours``."""
    from benchmarks.plain import PlainMambaRec
    from recbole_mambarec.models.mambarec import MambaRec
    from tests.helpers import InMemoryDataset, batch, model_config

    rng = np.random.default_rng(0)
    users = rng.integers(0, SIZES["n_users"], SIZES["pairs"])
    items = rng.integers(0, SIZES["n_items"], SIZES["pairs"])
    features = {m: rng.normal(size=(SIZES["n_items"], d)).astype(np.float32) for m, d in SIZES["dims"].items()}
    dataset = InMemoryDataset(users, items, SIZES["n_users"], SIZES["n_items"], features)
    config = model_config("MambaRec", freeze_features=frozen)
    torch.manual_seed(0)
    rows = rng.integers(0, SIZES["pairs"], SIZES["batch"])
    negatives = rng.integers(0, SIZES["n_items"], SIZES["batch"])
    steps = {}
    if "ours" in forms:
        model = MambaRec(config, dataset).train()
        interaction = batch(users[rows], items[rows], negatives)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
        steps["ours"] = _step(lambda: sum(model.calculate_loss(interaction)), optimizer)
    if "plain" in forms:
        data = dataset.training_data()
        graphs = {m: data.item_graph(m, config["knn_k"]) for m in data.modalities}
        graphs |= {"bipartite": data.bipartite, "user_item": data.user_item}
        tables = {m: torch.from_numpy(x) for m, x in features.items()}
        plain = PlainMambaRec(SIZES["n_users"], tables, graphs, config).train()
        nodes = [torch.from_numpy(x) for x in (users[rows], items[rows], negatives)]
        slow = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=1e-3, foreach=False)
        steps["plain"] = _step(lambda: plain.loss(*nodes), slow)
    return steps


def _step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure_time(frozen: bool, rounds: int, ours_per_round: int) -> dict[str, float]:
    """Median seconds per step of both forms, run in turn."""
    steps = make_steps(["plain", "ours"], frozen)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for form, repeats in (("plain", 1), ("ours", ours_per_round)):
            for _ in range(repeats):
                start = time.perf_counter()
                steps[form]()
                seconds[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in seconds.items()}


def measure_memory(form: str, frozen: bool) -> float:
    """Peak resident memory in GiB of a child process that does three steps of one form."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--child", form, "--frozen", str(int(frozen))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, under two minutes")
    parser.add_argument("--steps", type=int, default=None, help="measured steps of the plain form")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--frozen", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step = make_steps([options.child], bool(options.frozen))[options.child]
        for _ in range(3 if options.child == "ours" else 2):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    rounds = options.steps or (2 if options.quick else 5)
    report = {}
    for frozen in (False, True):
        name = "frozen" if frozen else "trainable"
        times = measure_time(frozen, rounds, ours_per_round=5)
        memory = {form: measure_memory(form, frozen) for form in ("plain", "ours")}
        print(
            f"{name} features: plain {times['plain']:.3f} s, {memory['plain']:.2f} GiB; ours {times['ours']:.3f} s, "
            f"{memory['ours']:.2f} GiB; {times['plain'] / times['ours']:.1f} times faster, "
            f"{memory['ours'] / memory['plain']:.2f} of the memory ({torch.get_num_threads()} threads)"
        )
        report[f"speedup_{name}"] = round(times["plain"] / times["ours"], 2)
        report[f"memory_{name}"] = round(memory["ours"] / memory["plain"], 3)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
