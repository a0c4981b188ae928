"""Train a model on a prepared dataset and record its test scores under both masks.

    python -m benchmarks.accuracy --model=MambaRec --dataset=baby [--label=...] [--key=value ...]
    python -m benchmarks.accuracy --table results/runs.jsonl

A run appends one JSON line to ``results/runs.jsonl``. One training serves both masks: the epoch is chosen on the
validation split, where the masks do not differ.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from recbole_mambarec.memory import peak_gib

RUNS = Path("results/runs.jsonl")
LIBRARIES = ("torch", "recbole", "numpy", "scipy", "pandas")


def run(model_name: str, dataset_name: str, label: str, command: str) -> dict:
    """Train, restore the best epoch, test with validation items ranked and masked; the record that is stored."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    import recbole_mambarec  # noqa: F401

    def prepare(mask: bool):
        config = Config(model_name, dataset_name, config_dict={"mask_valid_in_test": mask})
        init_seed(config["seed"], config["reproducibility"])
        return config, data_preparation(config, create_dataset(config))

    config, (train, valid, test_masked) = prepare(True)
    _, (_, _, test_published) = prepare(False)
    init_logger(config)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(model_name)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)
    epochs: list[tuple[int, float]] = []
    started = time.time()
    score, valid_result = trainer.fit(
        train, valid, show_progress=False, callback_fn=lambda epoch, value: epochs.append((epoch, float(value)))
    )
    seconds = time.time() - started
    best_epoch = next(epoch for epoch, value in reversed(epochs) if value == score)
    results = {
        mask: {k: float(v) for k, v in trainer.evaluate(data, load_best_model=True).items()}
        for mask, data in (("train", test_published), ("train+valid", test_masked))
    }
    return {
        "label": label or model_name,
        "model": model_name,
        "dataset": dataset_name,
        "seed": config["seed"],
        "command": command,
        "test": results,
        "valid": {k: float(v) for k, v in valid_result.items()},
        "best_epoch": best_epoch,
        "epochs": epochs[-1][0] + 1,
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(seconds / len(epochs), 2),
        "peak_memory_gib": round(peak_gib(), 2),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "curve": [value for _, value in epochs],
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }


def table(runs: list[dict]) -> str:
    """Markdown rows, one per run and mask."""
    columns = "dataset, model, mask at test, R@10, R@20, N@10, N@20, best epoch, epochs, s / epoch, minutes, peak GiB"
    lines = [f"| {columns.replace(', ', ' | ')} |", "|" + "---|" * 12]
    for entry in runs:
        for mask, scores in entry["test"].items():
            values = " | ".join(f"{scores[name]:.4f}" for name in ("recall@10", "recall@20", "ndcg@10", "ndcg@20"))
            epochs = f"{entry['best_epoch']} | {entry['epochs']}"
            # what a run did not measure stays blank
            measured = (
                entry["seconds_per_epoch"],
                entry["seconds"] and entry["seconds"] / 60,
                entry["peak_memory_gib"],
            )
            cost = " | ".join("" if value is None else f"{value:.1f}" for value in measured)
            lines.append(f"| {entry['dataset']} | {entry['label']} | {mask} | {values} | {epochs} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="MambaRec")
    parser.add_argument("--dataset", default="baby")
    parser.add_argument("--label", default="", help="name of the row, by default the model's")
    parser.add_argument("--table", type=Path, help="print the rows of a file of runs and stop")
    options, _ = parser.parse_known_args()
    if options.table:
        print(table([json.loads(line) for line in options.table.read_text(encoding="utf-8").splitlines()]))
        return
    command = "python -m benchmarks.accuracy " + " ".join(sys.argv[1:])
    # the label is ours; RecBole reads the rest of the command line itself
    sys.argv = [argument for argument in sys.argv if not argument.startswith("--label")]
    record = run(options.model, options.dataset, options.label, command)
    RUNS.parent.mkdir(exist_ok=True)
    with open(RUNS, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    print(table([record]))


if __name__ == "__main__":
    main()
