"""How time and memory grow with the catalogue.

    python -m benchmarks.scale --folder /somewhere/with/space [--items 7050,18357,63001,200000]
        [--forms frozen,trainable] [--steps 5] [--model MambaRec] [--keep] [--key=value ...]

Generates a dataset per size (users and interactions in Amazon's proportions, 4096 + 384 features in float16), trains a
few steps through RecBole's trainer in a process of its own per size and form, writes the checkpoint, and ranks a few
blocks of users. Peak memory is the largest resident memory of the process; ``anonymous`` leaves out pages of files
that are mapped, which the system can drop at any time. ``estimate`` is what the package foretold before the model was
built, added to what the process then held. ``epoch_start`` is what a model does before its first epoch: draw edges,
search neighbours that it learns. The neighbour lists are kept in the folder, so the second form of a size
finds them. The last line is one JSON object: rows, and the growth exponent of each figure per form.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.synthetic import sizes, write_dataset
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.memory import peak_gib

FIGURES = (
    "load",
    "search",
    "graphs",
    "epoch_start",
    "step",
    "step_cpu",
    "ranking",
    "write",
    "peak",
    "anonymous",
    "estimate",
)


class _Few:
    """Wraps a data loader and yields only its first batches."""

    def __init__(self, loader, count: int) -> None:
        self._loader, self._count = loader, count

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return min(self._count, len(self._loader))

    def __iter__(self) -> Iterator:
        return itertools.islice(iter(self._loader), self._count)


class _Resident(threading.Thread):
    """Largest anonymous resident memory in GiB, sampled ten times per second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    @staticmethod
    def now(field: str) -> float:
        """A field of ``/proc/self/status`` in GiB; 0 where it does not exist."""
        status = Path("/proc/self/status")
        lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
        return sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**20

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.now("RssAnon"))
            time.sleep(0.1)


def child(folder: Path, model_name: str, form: str, steps: int) -> dict[str, float]:
    """Measurements of one dataset and form, made in this process."""
    import recbole_mambarec  # noqa: F401  isort: skip
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_mambarec.data.training import TrainingData
    from recbole_mambarec.memory import need

    watch, found = _Resident(), dict.fromkeys(FIGURES, 0.0)

    def timed(name: str, work):
        started = time.perf_counter()
        result = work()
        found[name] += time.perf_counter() - started
        return result

    settings = {"data_path": str(folder.parent), "cache_dir": str(folder.parent / "cache"), "epochs": 1}
    settings |= {"freeze_features": form == "frozen", "checkpoint_dir": str(folder.parent / "saved")}
    config = Config(model_name, folder.name, config_dict=settings | {"show_progress": False})
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = timed("load", lambda: data_preparation(config, create_dataset(config)))
    neighbours = TrainingData.neighbours
    TrainingData.neighbours = lambda *a, **k: timed("search", lambda: neighbours(*a, **k))
    model_class = get_model(model_name)
    data = train._dataset.training_data()
    found["estimate"] = watch.now("VmRSS") + need(model_class.memory_of(config, data), config, data).total / 2**30
    model = timed("graphs", lambda: model_class(config, train._dataset))
    found["graphs"] -= found["search"]
    before_epoch = model.pre_epoch
    model.pre_epoch = lambda epoch: timed("epoch_start", lambda: before_epoch(epoch))
    trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)
    ends = []
    trainer.optimizer.register_step_post_hook(lambda *_: ends.append((time.perf_counter(), time.process_time())))
    write = trainer._write
    trainer._write = lambda *a: timed("write", lambda: write(*a))
    trainer.fit(_Few(train, steps + 1), verbose=False)
    # the first step is excluded: it faults in pages and creates the optimizer's state
    pairs = list(itertools.pairwise(ends))
    found["step"], found["step_cpu"] = (statistics.median(b[i] - a[i] for a, b in pairs) for i in (0, 1))
    trainer.tot_item_num = train._dataset.item_num
    model.eval()

    def rank() -> None:
        for batch in itertools.islice(iter(valid), 3):
            interaction, scores, users, items = trainer._full_sort_batch_eval(batch)
            trainer.eval_collector.eval_batch_collect(scores, interaction, users, items)

    with torch.no_grad():
        timed("ranking", rank)
    found["peak"], found["anonymous"] = peak_gib(), watch.peak
    facts = {"items": data.n_items, "users": data.n_users, "pairs": len(data.users), "form": form}
    return facts | {name: round(value, 3) for name, value in found.items()}


def exponents(rows: list[dict]) -> dict[str, float]:
    """Slope of each figure against the number of items on logarithmic axes; only with two sizes or more."""
    found = {}
    for name in FIGURES:
        points = [(math.log(row["items"]), math.log(row[name])) for row in rows if row[name] > 0.01]
        if len({x for x, _ in points}) > 1:
            found[name] = round(statistics.linear_regression(*zip(*points)).slope, 2)
    return found


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True, help="folder for datasets, 10 kB per item")
    parser.add_argument("--items", default="7050,18357,63001,200000")
    parser.add_argument("--forms", default="frozen,trainable")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--model", default="MambaRec")
    parser.add_argument("--keep", action="store_true", help="keep datasets and neighbour lists")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    folder = options.folder.resolve()
    if options.child:
        # RecBole parses the rest of the command line itself
        sys.argv = [sys.argv[0], *rest]
        dataset, form = options.child
        print(json.dumps(child(folder / dataset, options.model, form, options.steps)))
        return
    rows, failed = [], []
    for items in (int(count) for count in options.items.split(",")):
        dataset = folder / f"items{items}"
        if not dataset.is_dir():
            write_dataset(dataset, sizes(items), dtype="float16")
        for form in options.forms.split(","):
            command = [sys.executable, "-m", "benchmarks.scale", "--folder", str(folder), "--child", dataset.name, form]
            command += ["--model", options.model, "--steps", str(options.steps), *rest]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                failed.append(f"{items} items, {form}")
            else:
                rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
            shutil.rmtree(folder / "saved", ignore_errors=True)
        if not options.keep:
            shutil.rmtree(dataset)
    if not options.keep:
        shutil.rmtree(folder / "cache", ignore_errors=True)
    growth = {form: exponents([row for row in rows if row["form"] == form]) for form in options.forms.split(",")}
    print(json.dumps({"rows": rows, "exponents": growth}))
    if failed:
        raise UserError(f"not measured: {'; '.join(failed)} (see above)")


if __name__ == "__main__":
    run_main(main)
