"""Evaluation of a trained model, as it is or with other values of keys that do not change the training.

::

    made = evaluate("saved/FREEDOM-....pth", {"cold_scale": 1.0})
    made.valid["recall@20"], made.test["train"]["recall@20"]

A record of it is like that of a run. Its configuration has the values with which the model was evaluated, and
:data:`~recbole_mambarec.experiments.store.TRAINED_WITH` has those with which it was trained and its epoch was chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recbole_mambarec import registry
from recbole_mambarec.allocator import keep_freed_memory
from recbole_mambarec.checkpoint import plain
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store, users
from recbole_mambarec.experiments.evaluation import Ranking
from recbole_mambarec.experiments.new_item_ranking import ItemGroup, groups_of_items
from recbole_mambarec.experiments.plan import effective_config, resolve
from recbole_mambarec.experiments.provenance import device_name, git_state, versions
from recbole_mambarec.experiments.run import users_file
from recbole_mambarec.experiments.store import TRAINED_WITH, Record
from recbole_mambarec.memory import peak_gib
from recbole_mambarec.protocol import MULTIMODAL
from recbole_mambarec.restored import KEYS_OF_THE_FILES
from recbole_mambarec.run_keys import run_key
from recbole_mambarec.scoring.changed import check_values
from recbole_mambarec.scoring.restore import Restored, restore
from recbole_mambarec.scoring.splits import Splits
from recbole_mambarec_common.extras import need

# without which the configuration of a dataset may not be complete
_OF_THE_DATA = ("modalities", "derive_modalities", *KEYS_OF_THE_FILES)


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        name: of the model.
        dataset: its name.
        seed: of the training.
        changed: the values that were given.
        valid: metric -> value on validation, rounded as RecBole does.
        test: mask -> metric -> value, six decimals.
        groups: part (``validation``, or a mask) -> known and new items; empty if no held-out item is new.
        record: as it was written; None if none was to be written, or the model is evaluated as it was trained, which
            its run has recorded.
    """

    name: str
    dataset: str
    seed: int
    changed: dict
    valid: dict[str, float]
    test: dict[str, dict[str, float]]
    groups: dict[str, list[ItemGroup]]
    record: Record | None = None


class AlreadyRecorded(UserError):
    """The file of runs has this evaluation."""


def combinations(values: Mapping[str, Sequence]) -> list[dict]:
    """Every combination of one value per key."""
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def evaluate(
    checkpoint: str | Path,
    changed: Mapping[str, object] | None = None,
    *,
    data_path: str | Path | None = None,
    runs: str | Path | None = None,
    per_user: bool = True,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a trained model on validation and test, under both masks.

    Args:
        checkpoint: of a general model of this package or of RecBole, or the file of a fusion.
        changed: other values of the keys :data:`~recbole_mambarec.scoring.changed.CHANGEABLE`.
        data_path: see :func:`~recbole_mambarec.scoring.restore.restore`.
        runs: file of runs, to which a record is added; None: nothing is written.
        per_user: with ``runs``, also write results per user.

    Raises:
        UserError: the model cannot be loaded, does not support what is changed, or the evaluation cannot be recorded
            (see the messages); nothing has been written by then.
        AlreadyRecorded: ``runs`` has this evaluation.
    """
    keep_freed_memory()
    check_values(changed or {})
    if not Path(checkpoint).is_file():
        raise UserError(f"there is no checkpoint {checkpoint}")
    if runs is not None:
        if per_user:
            need("polars", "compare")
        store.refuse_unwritable(runs)
    run = restore(checkpoint, data_path, changed)
    plan = None if runs is None else _planned(run, Path(runs))
    ranking = Ranking(run.splits, run.scorer, progress)
    valid, top = ranking.valid_with_lists()
    test, tops = ranking.test()
    new = _without_training(run.splits)
    found = {mask: (each, ranking.loaders[mask]) for mask, each in tops.items()}
    if top is not None:
        found = {"validation": (top, run.splits.valid)} | found
    groups = {part: groups_of_items(each, loader, new, run.config) for part, (each, loader) in found.items()}
    groups = {part: entries for part, entries in groups.items() if entries[-1].users}
    dataset, seed = str(run.config["dataset"]), int(run.config["seed"])
    made = Evaluation(run.scorer.name, dataset, seed, dict(changed or {}), valid, test, groups)
    if plan is None or runs is None:
        return made
    record = replace(
        plan,
        device=device_name(run.config["device"]),
        valid=valid,
        test=test,
        peak_memory_gib=round(peak_gib(run.config["device"]), 3),
        parameters=sum(p.numel() for p in run.model.parameters() if p.requires_grad) if run.model else None,
    )
    path = users_file(runs, record.key) if per_user and tops else None
    try:
        if path is not None:
            record = replace(record, per_user=f"{path.parent.name}/{path.name}")
            users.write(path, users.table(run.splits.dataset, next(iter(ranking.loaders.values())), tops, run.config))
        store.append(runs, record)
    except BaseException:
        if path is not None:
            path.unlink(missing_ok=True)
        raise
    return replace(made, record=record)


def trained_key(model: str, config: Mapping, seed: int, data_hash: str) -> str:
    """The key of the run whose checkpoint was evaluated, from the configuration in a record of the evaluation."""
    values = {key: value for key, value in config.items() if key != TRAINED_WITH}
    return run_key(model, values | config[TRAINED_WITH], seed, data_hash)


def _without_training(splits: Splits) -> np.ndarray:
    """Which items have no training interaction, bool ``(item_num,)``; the padding item does not count."""
    dataset = splits.dataset
    new = np.bincount(dataset.inter_feat[dataset.iid_field].numpy(), minlength=dataset.item_num) == 0
    new[0] = False
    return new


def _planned(run: Restored, runs: Path) -> Record | None:
    """The record, without results; None if the model is evaluated as it was trained."""
    if run.model is None:
        raise UserError(f"{run.path} is a fusion: evaluations of fusions are not recorded, leave out --runs")
    config = effective_config(run.config)
    before = {key: value for key, value in plain(run.trained_with).items() if config.get(key) != value}
    if not before:
        return None
    model, seed, data_hash = str(run.config["model"]), int(run.config["seed"]), run.splits.data_hash
    recorded = store.finished(store.read(runs)) if runs.exists() else {}
    trained = recorded.get(run_key(model, config | before, seed, data_hash))
    given = trained.overrides if trained else _settings(run, config | before)
    config[TRAINED_WITH] = before
    key = run_key(model, config, seed, data_hash)
    if key in recorded:
        raise AlreadyRecorded(f"this evaluation is recorded in {runs}: name another file of runs, or delete its line")
    return Record(
        key=key,
        group=trained.group if trained else "comparison",
        label=trained.label if trained else model,
        model=model,
        dataset=str(run.config["dataset"]),
        seed=seed,
        overrides=given | {name: config.get(name) for name in before},
        config=config,
        data_hash=data_hash,
        versions=versions() | registry.versions(model),
        git=git_state(),
    )


def _settings(run: Restored, config: Mapping) -> dict:
    """What the configuration of a training has given, as far as it differs from what a comparison has without it."""
    model, dataset = str(run.config["model"]), str(run.config["dataset"])
    paths = {} if dataset == "ml-100k" else {"data_path": str(Path(run.config["data_path"]).parent)}
    read_by = {key: config[key] for key in _OF_THE_DATA if config.get(key) is not None}
    usual = resolve(model, dataset, overrides={"protocol": MULTIMODAL} | paths | read_by).config
    return read_by | {key: value for key, value in config.items() if key not in usual or usual[key] != value}
