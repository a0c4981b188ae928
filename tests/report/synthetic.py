"""Records like those of many runs, without running anything: several models, datasets, seeds, an ablation, searches."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from recbole_mambarec.experiments import store, users
from recbole_mambarec.run_keys import run_key
from tests.experiments.test_store import record

SEEDS = (999, 1000, 1001)
# label -> probability of a hit in the top 20, seconds per epoch, GiB, million parameters
MODELS = {
    "BPR": (0.055, 1.4, 0.8, 1.7),
    "LightGCN": (0.072, 4.9, 0.9, 1.7),
    "VBPR": (0.066, 3.0, 1.1, 3.2),
    "FREEDOM": (0.099, 9.0, 1.9, 33.4),
    "MGCN": (0.096, 11.0, 2.1, 33.9),
    "LGMRec": (0.1, 8.0, 1.0, 2.0),
    "CRANE": (0.102, 25.0, 2.8, 9.0),
    "MambaRec": (0.106, 14.3, 1.6, 8.4),
}
DATASETS = {"baby": (900, 1.0), "sports": (700, 1.12)}
ABLATION = {
    "MambaRec": ({}, 1.0),
    "without DREAM": ({"dream": False}, 0.95),
    "without MMD": ({"mmd_weight": 0.0}, 0.98),
    "without InfoNCE": ({"cl_weight": 0.0}, 0.93),
    "image only": ({"modalities": ["image"]}, 0.8),
    "text only": ({"modalities": ["text"]}, 0.9),
}
DEFAULTS = {"mmd_weight": 0.1, "cl_weight": 0.01, "reg_weight": 0.001, "dream": True, "modalities": None}
CUTOFFS = (10, 20)


class Synthetic:
    """Writes records of made-up runs into ``folder``.

    Args:
        users: share of the users above, to be quicker.
        bare: without results per user, curves, memory and metrics beyond accuracy.
    """

    def __init__(self, folder: Path, users: float = 1.0, bare: bool = False) -> None:
        self.folder, self.share, self.bare = folder, users, bare
        self.runs = folder / "runs.jsonl"
        self._splits = {name: self._split(name) for name in DATASETS}

    # ------------------------------------------------------------------ what is run

    def comparison(self, models=MODELS, datasets=DATASETS, seeds=SEEDS) -> Path:
        for seed, dataset, model in product(seeds, datasets, models):
            self.add(model, dataset, seed, quality=MODELS[model][0])
        return self.runs

    def ablation(self, dataset: str = "baby", seeds=SEEDS) -> Path:
        for seed, (label, (overrides, factor)) in product(seeds, ABLATION.items()):
            quality = MODELS["MambaRec"][0] * factor
            self.add("MambaRec", dataset, seed, quality, label, "mambarec-ablation", overrides)
        return self.runs

    def grid(self, dataset: str = "baby") -> Path:
        for mmd, cl in product((0.05, 0.1, 0.2), (0.001, 0.01, 0.1)):
            quality = MODELS["MambaRec"][0] - 0.008 * abs(np.log2(mmd / 0.1)) - 0.006 * abs(np.log10(cl / 0.01))
            overrides = {"mmd_weight": mmd, "cl_weight": cl}
            self.add("MambaRec", dataset, 999, quality, f"mmd {mmd:g}, cl {cl:g}", "grid", overrides)
        return self.runs

    def search(self, dataset: str = "sports") -> Path:
        path = self.folder / "trials.jsonl"
        for n, (mmd, cl, reg) in enumerate(product((0.05, 0.1, 0.2), (0.001, 0.01, 0.1), (0.0001, 0.001))):
            point = {"mmd_weight": mmd, "cl_weight": cl, "reg_weight": reg}
            quality = 0.1 - 0.01 * abs(np.log2(mmd / 0.1)) - 0.008 * abs(np.log10(cl / 0.01))
            more = {"point": point, "stopped": n == 7, "score": quality, "memory_gib": 1.0, "wall_seconds": 60.0}
            label = ", ".join(f"{key}={value}" for key, value in point.items())
            self.add("MambaRec", dataset, 999, quality, label, "tuning", point, path, **more)
        return path

    def failure(self) -> Path:
        store.append(
            self.runs,
            record(
                key="f",
                label="GRCN",
                model="GRCN",
                dataset="baby",
                status="failed",
                valid={},
                test={},
                curve=[],
                error="the process of the run was killed by signal 9 (memory may have run out)",
            ),
        )
        return self.runs

    # ------------------------------------------------------------------ one run

    def add(self, model, dataset, seed, quality, label=None, group="comparison", overrides=None, path=None, **more):
        """One record, and its results per user."""
        own = dict(overrides or {})
        searched = "point" in more
        _, seconds, memory, parameters = MODELS[model]
        config = DEFAULTS | {"valid_metric": "Recall@20", "valid_metric_bigger": True, "model_size": len(model)} | own
        fingerprint = hashlib.sha256(dataset.encode()).hexdigest()
        key = run_key(model, config, seed, fingerprint)
        rng = np.random.default_rng(int(key[:8], 16))
        frame = self._per_user(dataset, quality * DATASETS[dataset][1], rng)
        test = {mask: _scores(frame, mask) for mask in store.MASKS}
        if not self.bare:
            for scores in test.values():
                scores |= {
                    "itemcoverage@20": round(0.3 + quality, 4),
                    "averagepopularity@20": round(90 - 400 * quality, 4),
                }
        curve, best = _curve(test["train"]["recall@20"], int(rng.integers(30, 60)), rng)
        per_user = None
        if not self.bare and not searched:
            per_user = f"per_user/{key}.parquet"
            users.write(self.folder / per_user, frame)
        made = record(
            key=key,
            group=group,
            label=label or model,
            model=model,
            dataset=dataset,
            seed=seed,
            overrides=own,
            config=config,
            data_hash=fingerprint,
            valid=curve[best]["valid"],
            test={} if searched else test,
            curve=[] if self.bare else curve,
            best_epoch=best,
            epochs=len(curve),
            seconds=round(len(curve) * seconds * rng.uniform(0.9, 1.1), 1),
            peak_memory_gib=None if self.bare else round(memory * rng.uniform(0.97, 1.03), 3),
            parameters=int(parameters * 1e6),
            per_user=per_user,
            versions={"python": "3.11.7", "recbole_mambarec": "0.1.0", "torch": "2.13.0+cpu", "recbole": "1.2.1"},
            git={"revision": "d87262c82fc6ffda8da3901ba958f2b413d68788", "dirty": False},
        )
        store.append(path or self.runs, replace(made, **more))
        return made

    # ------------------------------------------------------------------ results per user

    def _split(self, dataset: str) -> dict[str, np.ndarray]:
        """Test interactions that all runs on a dataset share."""
        rng = np.random.default_rng(sum(dataset.encode()))
        n_users = max(20, int(DATASETS[dataset][0] * self.share))
        sizes = rng.integers(1, 4, n_users)
        rows = np.repeat(np.arange(n_users), sizes)
        popularity = np.maximum(1, (300 / rng.integers(1, 200, len(rows)) ** 0.8)).astype(np.uint32)
        return {
            "rows": rows,
            "train": rng.geometric(0.12, n_users).astype(np.uint32) + 2,
            "popularity": popularity,
            "image": rng.random(len(rows)) > 0.1,
            "luck": rng.random(len(rows)),
        }

    def _per_user(self, dataset: str, quality: float, rng: np.random.Generator) -> pl.DataFrame:
        split = self._splits[dataset]
        rows, n_users = split["rows"], len(split["train"])
        chance = quality * (0.6 + 0.25 * np.log10(split["popularity"])) * (0.8 + 0.4 * split["image"])
        # mostly the same interactions are easy for every model
        luck = np.where(rng.random(len(rows)) < 0.85, split["luck"], rng.random(len(rows)))
        pairs = {"row": rows, "items": [f"i{n}" for n in range(len(rows))], "popularity": split["popularity"]}
        pairs |= {"has:image": split["image"], "has:text": np.ones(len(rows), bool)}
        columns = {"user": [f"u{n}" for n in range(n_users)], "train": split["train"]}
        positives = np.bincount(rows, minlength=n_users)
        for mask, factor in zip(store.MASKS, (1.0, 1.02)):
            rank = np.where(luck < chance * factor, 1 + (20 * luck / (chance * factor)).astype(int), 0)
            pairs[f"{mask}:rank"] = rank.astype(np.uint16)
            for k in CUTOFFS:
                found = (rank > 0) & (rank <= k)
                hits = np.bincount(rows, found, minlength=n_users)
                gain = np.bincount(rows, np.where(found, 1 / np.log2(np.maximum(rank, 1) + 1), 0), minlength=n_users)
                ideal = np.cumsum(1 / np.log2(np.arange(2, 12)))[np.minimum(positives, k) - 1]
                values = {"recall": hits / positives, "ndcg": np.minimum(gain / ideal, 1), "hit": hits > 0}
                columns |= {f"{mask}:{name}@{k}": np.float32(value) for name, value in values.items()}
        lists = pl.DataFrame(pairs).with_columns(pl.col("^.*:rank$").replace(0, None))
        lists = lists.group_by("row", maintain_order=True).agg(pl.all())
        return pl.DataFrame(columns).with_columns(lists.drop("row"))


def _scores(frame: pl.DataFrame, mask: str) -> dict[str, float]:
    return {
        f"{name}@{k}": round(float(frame[f"{mask}:{name}@{k}"].mean()), 4)
        for name in ("recall", "ndcg")
        for k in CUTOFFS
    }


def _curve(level: float, epochs: int, rng: np.random.Generator) -> tuple[list[dict], int]:
    """A rise, a plateau at about ``level``, and where it is best."""
    steps = np.arange(epochs)
    scores = level * (1 - 0.8 * np.exp(-steps / 8)) * (1 - 0.0004 * steps) + rng.normal(0, 0.0006, epochs)
    scores = np.maximum(scores, 0.001).round(4)
    curve = [
        {
            "epoch": int(step),
            "valid": {"recall@20": float(score), "ndcg@20": round(float(score) * 0.45, 4)},
            "loss": {"bpr": float(1 / (step + 1))},
            "train_seconds": 1.0,
            "valid_seconds": 0.1,
        }
        for step, score in zip(steps, scores)
    ]
    return curve, int(np.flatnonzero(scores == scores.max())[-1])


def everything(folder: Path, users: float = 1.0) -> list[Path]:
    """Files with data for every section."""
    made = Synthetic(folder, users)
    made.comparison()
    made.ablation()
    made.grid()
    return [made.failure(), made.search()]


if __name__ == "__main__":
    print(*everything(Path(sys.argv[1])))
