"""Fusion of finished runs: weights found on validation, test once, a record like that of a run, a file to load.

::

    parts = choose(store.read("results/runs.jsonl"), ["PGL", "EASE"], "baby", folder="saved")
    record = fuse(parts, out="saved/fusion.pth", runs="results/runs.jsonl").record

The test split is read once, with the weights that validation has chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_mambarec.allocator import keep_freed_memory
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store, users
from recbole_mambarec.experiments.evaluation import Ranking
from recbole_mambarec.experiments.fusion_parts import Part
from recbole_mambarec.experiments.fusion_search import SEARCHES, Candidates, candidates
from recbole_mambarec.experiments.group import MEASURED_BY
from recbole_mambarec.experiments.plan import effective_config
from recbole_mambarec.experiments.provenance import device_name, git_state, versions
from recbole_mambarec.experiments.run import users_file
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.memory import peak_gib
from recbole_mambarec.run_keys import run_key
from recbole_mambarec.scoring.fused import NORMALISATIONS, FusedScorer, check_weights
from recbole_mambarec.scoring.restore import FUSION, Restored, restore, write_fusion
from recbole_mambarec.value_checks import check_choice
from recbole_mambarec_common.extras import need

DEFAULT_NORMALISATION, DEFAULT_SEARCH = "zscore", "coordinate"
#: stands for a search where the user has given the weights
GIVEN = "given"
# a larger difference from the recorded validation scores cannot come from rounding or another device
_SAME_SCORE = 0.005


@dataclass(frozen=True)
class Scores:
    """Scores of a part alone, or of the fusion: metric -> value on validation, mask -> metric -> value at test."""

    label: str
    weight: float | None
    valid: dict
    test: dict


@dataclass(frozen=True)
class Fused:
    """The result of :func:`fuse`.

    Attributes:
        record: as it was written.
        file: can be loaded like a checkpoint.
        parts, whole: scores of each part alone, and of the fusion.
        kept_items: see :attr:`~recbole_mambarec.experiments.fusion_search.Candidates.per_user`; None for given weights.
    """

    record: Record
    file: Path
    parts: list[Scores]
    whole: Scores
    kept_items: float | None


def default_label(labels: Sequence[str]) -> str:
    """How a fusion of runs with these labels is called in tables."""
    return f"{FUSION}: {' + '.join(labels)}"


def fuse(
    parts: Sequence[Part],
    *,
    runs: str | Path,
    out: str | Path | None = None,
    label: str | None = None,
    normalisation: str = DEFAULT_NORMALISATION,
    search: str | None = None,
    metric: str | None = None,
    weights: Sequence[float] | None = None,
    per_user: bool = True,
    data_path: str | Path | None = None,
    progress: bool = True,
) -> Fused:
    """Find weights on validation, evaluate the fusion as a run is evaluated, and write its file and its record.

    Memory: the parameters of all parts, and the kept candidates of each validation user; scores exist in blocks of
    users alone.

    Args:
        runs: file of runs, to which the record is added.
        out: the file of the fusion; None: beside the checkpoint of the first part.
        label: its name in tables; None: ``Fusion: A + B``.
        normalisation: a name in :data:`~recbole_mambarec.scoring.fused.NORMALISATIONS`.
        search: a name in :data:`~recbole_mambarec.experiments.fusion_search.SEARCHES`; None: :data:`DEFAULT_SEARCH`.
        metric: by which weights are chosen; None: the validation metric of the first part.
        weights: one per part, instead of a search (``search`` and ``metric`` must be None).
        per_user: also write results per user.
        data_path: see :func:`~recbole_mambarec.scoring.restore.restore`.

    Raises:
        UserError: the runs cannot be fused, see the messages; nothing has been written by then.
    """
    check_choice("normalisation", normalisation, NORMALISATIONS)
    if weights is not None:
        for name, value in {"search": search, "metric": metric}.items():
            if value is not None:
                raise UserError(f"{name}={value} has no effect on weights that are given: leave one of them out")
        check_weights(weights, len(parts))
    search = check_choice("search", search or DEFAULT_SEARCH, SEARCHES) if weights is None else GIVEN
    keep_freed_memory()
    if per_user:
        need("polars", "compare")
    _check_distinct(parts)
    if out is not None:
        # now, not after minutes of reading
        _check_free(Path(out))
        store.refuse_unwritable(out)
    restored = _restored(parts, data_path, progress)
    splits = restored[0].splits
    metric = metric or splits.config["valid_metric"]
    plan = _planned(parts, restored, label, normalisation, search, metric)
    if weights is not None:
        plan = _with_weights(plan, weights)
    file = Path(out) if out is not None else parts[0].checkpoint.parent / f"{FUSION}-{plan.key[:16]}.pth"
    _check_new(plan, file, Path(runs))

    fused = FusedScorer([part.scorer for part in restored], [1.0] * len(parts), normalisation)
    alone = [Ranking(part.splits, part.scorer, progress) for part in restored]
    kept = None
    if weights is None:
        found = candidates(fused, splits, metric, progress)
        weights, kept = _searched(found, SEARCHES[search], len(parts), progress), found.per_user
    fused = FusedScorer(fused.parts, weights, normalisation)
    whole = Ranking(splits, fused, progress)
    scores, tops = whole.test()
    of_parts = [
        Scores(
            entry["label"],
            weight,
            each.valid(),
            part.record.test if part.record is not None else each.test()[0],
        )
        for entry, weight, each, part in zip(plan.fusion["parts"], weights, alone, parts)
    ]
    _check_recorded(parts, of_parts)
    valid = whole.valid()
    entries = [entry | {"weight": weight} for entry, weight in zip(plan.fusion["parts"], weights)]
    record = replace(
        plan,
        device=device_name(splits.config["device"]),
        valid=valid,
        test=scores,
        peak_memory_gib=round(peak_gib(splits.config["device"]), 3),
        parameters=sum(p.numel() for part in restored for p in part.model.parameters() if p.requires_grad),
        fusion=plan.fusion | {"parts": entries},
    )
    path = users_file(runs, record.key) if per_user and tops else None
    if path is not None:
        record = replace(record, per_user=f"{path.parent.name}/{path.name}")
    more = {"normalisation": normalisation, "fusion": record.fusion, "label": record.label, "key": record.key}
    try:
        write_fusion(file, restored, weights, more | {"valid": valid, "test": scores})
        if path is not None:
            users.write(path, users.table(splits.dataset, next(iter(whole.loaders.values())), tops, splits.config))
        store.append(runs, record)
    except BaseException:
        for written in filter(None, (file, path)):
            written.unlink(missing_ok=True)
        raise
    return Fused(record, file, of_parts, Scores(record.label, None, valid, scores), kept)


def _check_distinct(parts: Sequence[Part]) -> None:
    if len(parts) < 2:
        raise UserError(f"a fusion needs at least two runs, got {len(parts)}")
    for part in parts:
        if not part.checkpoint.is_file():
            raise UserError(f"there is no checkpoint {part.checkpoint}")
    files = [part.checkpoint.resolve() for part in parts]
    for part, file in zip(parts, files):
        if files.count(file) > 1:
            raise UserError(f"{part.checkpoint} is named twice: a run cannot be fused with itself")


def _restored(parts: Sequence[Part], data_path: str | Path | None, progress: bool) -> list[Restored]:
    restored: list[Restored] = []
    for part in tqdm(parts, desc="Checkpoints", unit="run", delay=2, disable=not progress):
        run = restore(part.checkpoint, data_path)
        if run.model is None:
            raise UserError(f"{part.checkpoint} is a fusion itself: name the runs that it was made of")
        if part.record is not None and part.record.data_hash != run.splits.data_hash:
            raise UserError(
                f"the data of {part.record.label}, seed {part.record.seed}, have changed since it was run: run it again"
            )
        difference = restored[0].splits.difference(run.splits) if restored else None
        if difference:
            raise UserError(f"{parts[0].checkpoint.name} and {part.checkpoint.name} cannot be fused: {difference}")
        restored.append(run)
    return restored


def _planned(
    parts: Sequence[Part],
    restored: Sequence[Restored],
    label: str | None,
    normalisation: str,
    search: str,
    metric: str,
) -> Record:
    """The record, without weights and results."""
    entries: list[dict[str, Any]] = []
    configs: list[str] = []
    for part, run in zip(parts, restored):
        model, seed = str(run.config["model"]), int(run.config["seed"])
        config = part.record.config if part.record is not None else effective_config(run.config)
        key = part.record.key if part.record is not None else run_key(model, config, seed, run.splits.data_hash)
        name = part.record.label if part.record is not None else model
        entries.append({"label": name, "model": model, "seed": seed, "key": key})
        # without the seed and the data, so that fusions of other seeds are the same row of a table
        configs.append(run_key(model, config, 0, "")[:16])
    keys = [entry["key"] for entry in entries]
    if len(set(keys)) < len(keys):
        raise UserError(f"two of the checkpoints are of the same run ({', '.join(e['label'] for e in entries)})")
    own = parts[0].record.config if parts[0].record is not None else effective_config(restored[0].config)
    config = {key: own[key] for key in (*MEASURED_BY, "valid_metric", "valid_metric_bigger") if key in own}
    config |= {"parts": [[entry["model"], each] for entry, each in zip(entries, configs)]}
    config |= {"normalisation": normalisation, "search": search, "search_metric": metric.lower()}
    seeds = [entry["seed"] for entry in entries]
    if len(set(seeds)) > 1:
        config["part_seeds"] = seeds
    data_hash, dataset = restored[0].splits.data_hash, str(restored[0].config["dataset"])
    return Record(
        key=run_key(FUSION, config, seeds[0], data_hash),
        group="comparison",
        label=label or default_label([entry["label"] for entry in entries]),
        model=FUSION,
        dataset=dataset,
        seed=seeds[0],
        overrides={},
        config=config,
        data_hash=data_hash,
        versions=versions(),
        git=git_state(),
        fusion={"parts": entries, "normalisation": normalisation, "search": search, "metric": metric.lower()},
    )


def _with_weights(plan: Record, weights: Sequence[float]) -> Record:
    """The record of a fusion whose weights are not found but given."""
    config = plan.config | {"weights": [float(weight) for weight in weights]}
    return replace(plan, config=config, key=run_key(FUSION, config, plan.seed, plan.data_hash))


def _check_free(file: Path) -> None:
    if file.exists():
        raise UserError(f"{file} exists: delete it, or name another file with --out")


def _check_new(plan: Record, file: Path, runs: Path) -> None:
    _check_free(file)
    store.refuse_unwritable(runs)
    if runs.exists() and plan.key in store.finished(store.read(runs)):
        raise UserError(f"this fusion is already recorded in {runs}: name another file of runs, or delete its line")


def _searched(found: Candidates, search, n_parts: int, progress: bool) -> list[float]:
    if all(found.value([float(k == part) for k in range(n_parts)]) == 0 for part in range(n_parts)):
        raise UserError(
            f"none of the runs finds an item of the validation split ({found.name} is 0 for each of them): there is "
            "nothing by which weights could be chosen"
        )
    with tqdm(desc="Weights", unit=" tried", delay=2, disable=not progress) as bar:

        def value(weights: Sequence[float]) -> float:
            bar.update()
            return found.value(weights)

        return search(value, n_parts)


def _check_recorded(parts: Sequence[Part], scores: Sequence[Scores]) -> None:
    """Refuse a checkpoint that does not have the recorded run in it."""
    for part, found in zip(parts, scores):
        for metric, value in (part.record.valid if part.record is not None else {}).items():
            if value is not None and abs(found.valid.get(metric, value) - value) > _SAME_SCORE:
                raise UserError(
                    f"{part.checkpoint} does not give the recorded validation scores ({metric} "
                    f"{found.valid[metric]:.4f} instead of {value:.4f}): it is not the checkpoint of this run, or its "
                    "model draws random numbers"
                )
