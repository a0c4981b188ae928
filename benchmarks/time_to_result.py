"""Epochs and minutes that runs take to reach a share of their final validation score.

    python -m benchmarks.time_to_result results/runs.jsonl --models MambaRec --dataset baby --key lr_boost
    python -m benchmarks.time_to_result results/runs.jsonl --models FREEDOM,MambaRec,CRANE --dataset baby

One model: by the values of a key; runs that differ in that key and in the seed alone are compared, others are left out.
Several models: each at its default settings. ``own``: the share of the run's own best score; ``common``: the share of
the mean best score of the runs at the key's neutral value (its default, where it has none), or of the first model's, so
that a run that starts fast and ends low gains nothing. Minutes are those on record (training and validation), blank
where there are none.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import statistics
from pathlib import Path

from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.run_keys import NEUTRAL, run_key

COLUMNS = ("seed", "epochs, own", "epochs, common", "minutes, common", "best epoch", "epochs in all", "valid", "test")


def reached(values: list[float], target: float) -> int | None:
    """Number of epochs until a value reaches ``target``; None if it never does."""
    return next((epoch for epoch, value in enumerate(values, 1) if value >= target), None)


def minutes(record: Record, epochs: int | None) -> float | None:
    """Recorded minutes of the first ``epochs`` epochs; None if they were not recorded."""
    seconds = [(entry["train_seconds"], entry["valid_seconds"]) for entry in record.curve[: epochs or 0]]
    if not seconds or any(part is None for pair in seconds for part in pair):
        return None
    return sum(sum(pair) for pair in seconds) / 60


def comparable(records: list[Record], key: str, default: object) -> dict[object, list[Record]]:
    """Value of the key -> runs whose other settings equal those of the first run with the default value."""

    def rest(record: Record) -> str:
        return run_key(record.model, record.config | {key: default}, 0, record.data_hash)

    groups: dict[object, list[Record]] = {}
    plain = [r for r in at_defaults(records) if r.config.get(key, default) == default]
    for record in records if plain else []:
        if rest(record) == rest(plain[0]):
            groups.setdefault(record.config.get(key, default), []).append(record)
    return groups


def at_defaults(records: list[Record]) -> list[Record]:
    """Runs with default settings."""
    return [record for record in records if not record.overrides]


def rows(groups: dict[object, list[Record]], reference: object, share: float) -> list[list]:
    """The table: one row per run, and the mean of each group whose runs all have a value."""
    metric = groups[reference][0].config["valid_metric"].lower()
    common = share * statistics.mean(record.valid[metric] for record in groups[reference])
    table = []
    for value, records in groups.items():
        block = []
        for record in sorted(records, key=lambda record: record.seed):
            curve = [entry["valid"][metric] for entry in record.curve]
            there = reached(curve, common)
            own = reached(curve, share * max(curve))
            figures = [own, there, minutes(record, there), record.best_epoch + 1, len(curve)]
            block.append([record.seed, *figures, record.valid[metric], record.test["train"][metric]])
        columns = list(zip(*block))[1:]
        means = [None if None in column else statistics.mean(column) for column in columns]
        table += [[value, *row] for row in block] + [[value, "mean", *means]]
    return table


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", help="records of run_recbole_group.py")
    parser.add_argument("--models", default="MambaRec", help="one, or several, held against the first")
    parser.add_argument("--dataset", default="baby")
    parser.add_argument("--key", default="lr_boost", help="configuration key to compare the runs of one model by")
    parser.add_argument("--share", type=float, default=0.95)
    options = parser.parse_args()
    models = options.models.split(",")
    by_model: dict[str, list[Record]] = {model: [] for model in models}
    for path in options.runs:
        for record in store.finished(store.read(path)).values():
            if record.model in by_model and record.dataset == options.dataset:
                by_model[record.model].append(record)
    for model, records in by_model.items():
        if not at_defaults(records):
            raise UserError(f"no finished run of {model} on {options.dataset} at its default settings is on record")
    if len(models) > 1:
        heading, reference, groups = "model", models[0], {m: at_defaults(records) for m, records in by_model.items()}
    else:
        heading = options.key
        defaults = default_properties("overall") | default_properties("model", models[0])
        # what a record stands for that was made before the key existed
        reference = NEUTRAL.get(heading, defaults.get(heading))
        groups = dict(sorted(comparable(by_model[models[0]], heading, reference).items()))
    print("| " + " | ".join((heading, *COLUMNS)) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for value, seed, own, common, spent, *counts, valid, test in rows(groups, reference, options.share):
        numbers = ["" if n is None else f"{n:.3g}" for n in (own, common, spent, *counts)]
        print("| " + " | ".join([str(value), str(seed), *numbers, f"{valid:.4f}", f"{test:.4f}"]) + " |")
    return 0


if __name__ == "__main__":
    run_main(main)
