"""Records of other machines, and results per user without data.

``python -m tools.records add results/tiktok.jsonl FILE...`` adds the finished runs of other files of runs, of which
each replaces the record of the same run, and keeps their results per user. ``python -m tools.records restore`` writes
results/per_user of all records, which the pages with tests by user are made from.

Results per user (:mod:`recbole_mambarec.experiments.users`) contain the split of the data, whose licence does not let
it be part of the repository. results/ranks has what remains without it: for each run and mask, the rank of every test
interaction, in the order of the users and then of the items, 0 if it was not recommended. Everything else follows from
the prepared dataset, which `restore` reads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store, users
from recbole_mambarec.experiments.run import users_file
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.restored import config_from_checkpoint
from recbole_mambarec.scoring.changed import CHANGEABLE
from recbole_mambarec.scoring.splits import Splits
from recbole_mambarec_common.files import atomic_file

RESULTS = Path(__file__).resolve().parents[1] / "results"
#: whose data, as a model without features reads them, are those of every run
_READER = "BPR"
# what RecBole adds to a configuration by itself, what is about the training alone, and what changes scores alone: the
# data of runs that differ in nothing else are read once
_DERIVED = ("MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "valid_neg_sample_args", "test_neg_sample_args")
_OF_TRAINING = ("train_neg_sample_args", "learning_rate", "embedding_size", "train_batch_size", "epochs")
_OF_SCORES = tuple(key for key in CHANGEABLE if key != "rank_items")
# scores in records have six decimals, values per user are float32
_TOLERANCE = 2e-6


# ------------------------------------------------------------------------------------------------------------
# ranks


def ranks_of(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """Mask -> rank of every test interaction in results per user, uint8 ``(n_pairs,)``, 0 where it has none."""
    masks = [column.removesuffix(":rank") for column in frame.columns if column.endswith(":rank")]
    found = {mask: frame[f"{mask}:rank"].explode().fill_null(0).to_numpy() for mask in masks}
    if any(ranks.max(initial=0) > np.iinfo(np.uint8).max for ranks in found.values()):
        raise UserError("ranks beyond 255 cannot be kept: leave out these runs, or change their topk")
    return {mask: ranks.astype(np.uint8) for mask, ranks in found.items()}


def frame_of(record: Record, ranks: dict[str, np.ndarray], data_path: str) -> pl.DataFrame:
    """The results per user of a run, from its ranks and the prepared dataset.

    Raises:
        UserError: the dataset is not that of the run, or does not lead to the recorded scores.
    """
    splits, tests = _splits(record.dataset, _settings(record), data_path)
    if splits.data_hash != record.data_hash:
        raise UserError(f"{data_path}/{record.dataset} is not the data of {record.label} ({record.key[:12]})")
    loader = next(iter(tests.values()))
    tops = {mask: _lists(loader, ranks[mask], max(record.config["topk"]), record) for mask in ranks}
    frame = users.table(splits.dataset, loader, tops, splits.config)
    for mask, scores in record.test.items():
        for metric, value in scores.items():
            mean = users.values(frame, mask, metric).mean()
            if abs(mean - value) > _TOLERANCE:
                raise UserError(
                    f"the kept ranks of {record.label} ({record.key[:12]}) give {metric} = {mean:.6f} under the mask "
                    f"{mask}, and its record has {value:.6f}: add the run again"
                )
    return frame


def _lists(loader, ranks: np.ndarray, k: int, record: Record) -> users.TopK:
    """The recommendations of which the ranks are known; the places of all other items hold the padding item."""
    evaluated, rows, items = users.test_pairs(loader)
    if len(ranks) != len(rows):
        raise UserError(
            f"{record.label} ({record.key[:12]}) has ranks of {len(ranks)} test interactions, and the data {len(rows)}"
        )
    recommended = np.zeros((len(evaluated), k), dtype=np.int64)
    found = ranks > 0
    recommended[rows[found], ranks[found] - 1] = items[found]
    return users.TopK(recommended, recommended > 0, np.bincount(rows, minlength=len(evaluated)))


def _settings(record: Record) -> str:
    """The part of a run's configuration that its data and their evaluation depend on, as JSON."""
    values = {key: value for key, value in record.config.items() if key not in (*_DERIVED, *_OF_TRAINING, *_OF_SCORES)}
    return json.dumps(values | {"seed": record.seed}, sort_keys=True)


@lru_cache(maxsize=1)
def _splits(dataset: str, settings: str, data_path: str) -> tuple[Splits, dict]:
    paths = {"model": _READER, "dataset": dataset, "data_path": str(Path(data_path) / dataset), "show_progress": False}
    # as they are: read as a user's input, some would be refused as being without effect on the reader
    splits = Splits(config_from_checkpoint(json.loads(settings) | paths))
    return splits, splits.tests()


# ------------------------------------------------------------------------------------------------------------
# files


def kept(folder: Path) -> dict[str, np.ndarray]:
    """Everything in a folder of ranks: ``<key of the run> <mask>`` -> ranks."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as content:
            found.update({name: content[name] for name in content.files})
    return found


def keep(runs: Path, records: Iterable[Record]) -> None:
    """Write the ranks of the finished runs of a file of runs, into ``ranks/<name of that file>.npz`` beside it.

    Args:
        records: all of the file; ranks of runs that are not among them are dropped. Ranks of those whose results per
            user are not here stay as they are.
    """
    path = runs.parent / "ranks" / f"{runs.stem}.npz"
    before = kept(path.parent)
    ranks: dict[str, Any] = {}
    for record in records:
        file = runs.parent / (record.per_user or "")
        if record.per_user and file.is_file():
            ranks.update({f"{record.key} {mask}": found for mask, found in ranks_of(users.read(file)).items()})
        else:
            names = (f"{record.key} {mask}" for mask in record.test)
            ranks.update({name: before[name] for name in names if name in before})
    if ranks:
        with atomic_file(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **dict(sorted(ranks.items())))


def add(runs: Path, files: Sequence[Path]) -> list[Record]:
    """Add the finished runs of other files of runs, with their results per user; returns what was added."""
    added = {_name(record): (record, file.parent) for file in files for record in store.read(file)}
    added = {name: (record, folder) for name, (record, folder) in added.items() if record.is_finished}
    before = store.read(runs) if runs.exists() else []
    _report_changes(before, [record for record, _ in added.values()])
    for record, folder in added.values():
        if record.per_user:
            target = users_file(runs, record.key)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / record.per_user, target)
    # lines of others stay as they were written
    lines = {_name(record): line for record, line in zip(before, _lines(runs))}
    lines |= {name: json.dumps(record.to_json(), ensure_ascii=False) for name, (record, _) in added.items()}
    with atomic_file(runs) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")
    keep(runs, store.read(runs))
    return [record for record, _ in added.values()]


def _lines(runs: Path) -> list[str]:
    return runs.read_text(encoding="utf-8").splitlines() if runs.exists() else []


def _report_changes(before: Iterable[Record], added: Iterable[Record]) -> None:
    """Say which scores differ from those of the same run on the same kind of device."""
    known = {(record.key, record.device): record for record in before}
    for record in added:
        old = known.get((record.key, record.device))
        if old is not None and old.test != record.test:
            print(f"changed: {record.label}, seed {record.seed}, {record.overrides}: {old.test}", file=sys.stderr)


def restore(results: Path, data_path: str) -> int:
    """Write the results per user of all runs whose ranks are kept and that are not there; returns how many."""
    ranks, written = kept(results / "ranks"), 0
    wanted = {record.key: record for file in sorted(results.glob("*.jsonl")) for record in _records(file)}
    missing = [record for record in wanted.values() if not users_file(results / "runs", record.key).is_file()]
    # runs with the same data one after the other, which are read once
    for record in tqdm(sorted(missing, key=_settings), unit="run", leave=False):
        found = {mask: ranks[f"{record.key} {mask}"] for mask in record.test if f"{record.key} {mask}" in ranks}
        if found and (Path(data_path) / record.dataset).is_dir():
            users.write(users_file(results / "runs", record.key), frame_of(record, found, data_path))
            written += 1
    return written


def _records(file: Path) -> list[Record]:
    """The finished runs of a file, none if it holds something else."""
    try:
        return [record for record in store.read(file) if record.is_finished]
    except UserError:
        return []


def _name(record: Record) -> tuple[str, str, str]:
    return record.key, record.group, record.label


def main(argv: Sequence[str] | None = None) -> int:
    """Add runs, or restore results per user; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.records", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="add the finished runs of other files")
    adding.add_argument("runs", type=Path, help="file of runs, such as results/tiktok.jsonl")
    adding.add_argument("files", type=Path, nargs="+", help="files of runs")
    restoring = commands.add_parser("restore", help="write results/per_user from results/ranks")
    restoring.add_argument("--data_path", default="dataset", help="folder of the datasets (default %(default)s)")
    options = parser.parse_args(argv)
    try:
        if options.command == "add":
            for record in add(options.runs, options.files):
                print(f"{record.label} on {record.dataset}, seed {record.seed}, {record.overrides}")
        else:
            print(f"results per user of {restore(RESULTS, options.data_path)} runs written to {RESULTS / 'per_user'}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
