"""How models start on a dataset, and how the length of feature rows affects it.

    python -m benchmarks.starts --dataset lfm2k [--models VBPR,MGCN] [--epochs 12] [--key=value ...]

Trains every model of this package (or ``--models``) for a few epochs at its defaults, once on the features as they are
and once with every feature row scaled to length 1, and prints the validation score after the first epoch, half of them
and the last one. Validation only: the test split is not looked at. The last line is one JSON object.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mambarec import registry
from recbole_mambarec.config import no_command_line
from recbole_mambarec.data.folder import modality_files
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec_common.options import configuration
from recbole_mambarec_common.terminal import table


def unit_rows(folder: Path, root: Path) -> None:
    """Copy a prepared dataset into ``root`` with its feature rows scaled to length 1; rows of zeros stay."""
    target = root / folder.name
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.npy"))
    for path in modality_files(folder, folder.name).values():
        rows = np.load(path).astype(np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(target / path.name, rows / np.where(lengths > 0, lengths, 1.0))


def scores(model: str, dataset: str, overrides: dict) -> list[float]:
    """Validation scores of a model after each epoch."""
    with no_command_line():
        config = Config(model, dataset, config_dict=overrides)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    found: list[float] = []
    trainer.fit(train, valid, verbose=False, saved=False, callback_fn=lambda epoch, score: found.append(float(score)))
    return found


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a prepared dataset with at least one modality")
    parser.add_argument("--data_path", default="dataset", help="the folder of prepared datasets (default %(default)s)")
    parser.add_argument("--models", default=",".join(registry.names()), help="default: all of this package")
    parser.add_argument("--epochs", type=int, default=12, help="default %(default)s")
    argv = sys.argv[1:] if argv is None else argv
    options, rest = parser.parse_known_args(argv)
    overrides = configuration(argv, rest) | {"epochs": options.epochs, "show_progress": False, "state": "ERROR"}
    folder = Path(options.data_path) / options.dataset
    if not folder.is_dir() or not modality_files(folder, options.dataset):
        raise UserError(f"{folder} is no prepared dataset with features: prepare it with `python -m dataset_prep`")
    found: dict[str, dict[str, list[float]]] = {}
    shown = sorted({1, max(1, options.epochs // 2), options.epochs})
    with tempfile.TemporaryDirectory() as scratch:
        unit_rows(folder, Path(scratch))
        for model in options.models.split(","):
            found[model] = {
                name: scores(model, options.dataset, overrides | {"data_path": str(path)})
                for name, path in (("as they are", folder.parent), ("length 1", Path(scratch)))
            }
            print(model, *(f"{name}: {found[model][name][-1]:.4f}" for name in found[model]), flush=True)
    header = ["model", *(f"{name}, epoch {epoch}" for name in ("as they are", "length 1") for epoch in shown)]
    lines = [
        [model, *(f"{curve[min(epoch, len(curve)) - 1]:.4f}" for curve in curves.values() for epoch in shown)]
        for model, curves in found.items()
    ]
    print(table(header, lines))
    print(json.dumps({"dataset": options.dataset, "epochs": options.epochs, "valid": found}))


if __name__ == "__main__":
    run_main(main)
