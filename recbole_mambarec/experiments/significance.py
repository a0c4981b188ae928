"""Is the best model better than each other one? Paired tests over users and over seeds.

For one metric on one dataset, the model with the best mean (the highest, or the lowest for RecBole's metrics of which
less is better) is compared with each other one; these comparisons are the family over which Holm's correction is taken.
Differences are paired: the same user under both models (mean over the seeds that all models have), or the same seed.

* Wilcoxon's signed-rank test, two-sided, zero differences dropped, ties at average ranks; exact up to 50 differences
  (given the ties), beyond that scipy's normal approximation, corrected for ties.
* Student's t on the differences, two-sided.
* Effect sizes: Cohen's d_z, the mean difference over the standard deviation of the differences, and the matched-pairs
  rank-biserial correlation, (W+ - W-) / (W+ + W-): 1 or -1 where all differences that are not zero point the same way.
* Percentile bootstrap interval of the mean difference, pairs drawn with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from recbole.evaluator import smaller_metrics
from scipy import stats

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import users
from recbole_mambarec.experiments.store import UNMASKED, Record

ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 9999
BOOTSTRAP_SEED = 0
INTERVAL = (
    f"{CONFIDENCE:.0%} percentile bootstrap of the mean difference, {RESAMPLES} resamples, seed {BOOTSTRAP_SEED}, each "
    "for itself (not corrected for the number of comparisons)"
)
# pairs below which a percentile interval is clearly narrower than its level says
_FEW_PAIRS = 10
# differences up to which the signed-rank test is exact
_EXACT = 50
# resamples x distinct differences that are drawn at a time
_BLOCK = 1 << 23


@dataclass(frozen=True)
class Comparison:
    """The best model against another one.

    Attributes:
        label: the other model.
        mean: its mean.
        difference: best minus other, mean over pairs.
        interval: bootstrap confidence interval of ``difference``.
        nonzero: pairs with a difference.
        p_wilcoxon, p_t: p-values; after :func:`compare`, corrected by Holm.
        d_z, rank_biserial: effect sizes; NaN where they are not defined (one pair; no difference at all).
        significant: the corrected ``p_wilcoxon`` is below the level.
    """

    label: str
    mean: float
    difference: float
    interval: tuple[float, float]
    nonzero: int
    p_wilcoxon: float
    p_t: float
    d_z: float
    rank_biserial: float
    significant: bool = False


@dataclass(frozen=True)
class Family:
    """All comparisons of one metric on one dataset.

    Attributes:
        best, best_mean: the model with the best mean.
        comparisons: the other models, best first.
        metric: e.g. ``recall@20``.
        unit: ``user`` or ``seed``, what pairs are.
        pairs: number of pairs.
        seeds: the seeds behind each value (by user) or compared (by seed).
        alpha: level of significance.
    """

    best: str
    best_mean: float
    comparisons: list[Comparison]
    metric: str
    unit: str
    pairs: int
    seeds: tuple[int, ...]
    alpha: float = ALPHA

    @property
    def method(self) -> str:
        """Test, pairs and correction, as a part of a sentence."""
        paired = f"paired by {self.unit} (n = {self.pairs:,}".replace(",", " ")
        seeds = ", ".join(map(str, self.seeds))
        if self.unit == "user":
            paired += f", mean of seeds {seeds})" if len(self.seeds) > 1 else f", seed {seeds})"
        else:
            paired += f": {seeds})"
        count = len(self.comparisons)
        return (
            f"the two-sided Wilcoxon signed-rank test {paired} with Holm's correction over the {count} "
            f"comparison{'s' * (count != 1)} with the best"
        )

    @property
    def limit(self) -> str:
        """What cannot be told from so few pairs, else nothing."""
        smallest = 2.0 ** (1 - self.pairs)
        parts = []
        if smallest >= self.alpha:
            parts.append(f"With {self.pairs} pairs this test cannot give a p-value below {smallest:.2g}.")
        if self.pairs < _FEW_PAIRS:
            parts.append(f"An interval of {self.pairs} pairs is narrower than its level says.")
        return " ".join(parts)

    @property
    def sentence(self) -> str:
        """What a table has to say under it: test, pairs, correction, interval."""
        text = (
            f"*: {self.best} is better in {self.metric} with p < {self.alpha:g}, by {self.method}; "
            f"intervals: {INTERVAL}."
        )
        return f"{text} {self.limit}".rstrip()


# ------------------------------------------------------------------------------------------------------------
# statistics


def paired(label: str, best: np.ndarray, other: np.ndarray) -> Comparison:
    """Compare two samples ``(n,)`` whose entries are pairs; p-values are not corrected."""
    difference = np.asarray(best, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    # differences of means that were equal before rounding must count as none
    difference[np.abs(difference) < 1e-12] = 0.0
    n, nonzero = len(difference), difference[difference != 0]
    spread = difference.std(ddof=1) if n > 1 else math.nan
    p_wilcoxon = p_t = 1.0
    rank_biserial = math.nan
    if len(nonzero):
        ranks = stats.rankdata(np.abs(nonzero))
        rank_biserial = float((ranks * np.sign(nonzero)).sum() / ranks.sum())
        p_wilcoxon = signed_rank_p(nonzero)
        # the same difference in every pair leaves no doubt that there is one
        p_t = float(stats.ttest_1samp(difference, 0.0).pvalue) if spread > 0 else 1.0 if n == 1 else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        d_z = float(np.float64(difference.mean()) / spread)
    return Comparison(
        label=label,
        mean=float(np.mean(other)),
        difference=float(difference.mean()),
        interval=bootstrap_interval(difference),
        nonzero=len(nonzero),
        p_wilcoxon=p_wilcoxon,
        p_t=p_t,
        d_z=d_z,
        rank_biserial=rank_biserial,
    )


def signed_rank_p(difference: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test on differences ``(n,)`` that are not zero."""
    if len(difference) > _EXACT:
        return float(stats.wilcoxon(difference, method="approx").pvalue)
    # scipy's exact test knows no ties, which scores of four decimals have; average ranks are multiples of a half
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(np.int64)
    chance = np.ones(1)  # chance[w] of a rank sum w, each sign being as likely as the other
    for rank in ranks:
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    observed = ranks[difference > 0].sum()
    return float(min(1.0, 2 * min(chance[: observed + 1].sum(), chance[observed:].sum())))


def bootstrap_interval(
    difference: np.ndarray, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Percentile interval of the mean of ``difference``, ``(n,)``.

    Drawing n values with replacement is drawing how often each distinct value comes: most users differ by one of a few
    values, so that this takes a fraction of the time and memory.
    """
    distinct, counts = np.unique(difference, return_counts=True)
    n, rng = len(difference), np.random.default_rng(seed)
    means, block = [], max(1, _BLOCK // len(distinct))
    for start in range(0, resamples, block):
        drawn = rng.multinomial(n, counts / n, size=min(block, resamples - start))
        means.append(drawn @ distinct / n)
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values corrected by Holm's step-down procedure, ``(m,)``: the k-th smallest times m - k + 1, never falling."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def compare(
    samples: Mapping[str, np.ndarray], metric: str, unit: str, seeds: Sequence[int], alpha: float = ALPHA
) -> Family:
    """The best of several samples against each other one.

    Args:
        samples: label -> values ``(n,)``, entry k of each for the same user or seed; at least two labels.

    Raises:
        UserError: there are fewer than two samples, or they differ in length.
    """
    if len(samples) < 2:
        alone = ", ".join(samples) or "nothing"
        raise UserError(f"there is {alone} to compare: significance needs at least two models")
    if len({len(sample) for sample in samples.values()}) > 1:
        sizes = ", ".join(f"{label} {len(sample)}" for label, sample in samples.items())
        raise UserError(f"pairs need as many values of each model, got {sizes}")
    less_is_better = metric.partition("@")[0].lower() in smaller_metrics
    order = sorted(samples, key=lambda label: np.mean(samples[label]), reverse=not less_is_better)
    best = order[0]
    found = [paired(label, samples[best], samples[label]) for label in order[1:]]
    wilcoxon, t = (holm([getattr(each, name) for each in found]) for name in ("p_wilcoxon", "p_t"))
    corrected = [
        replace(each, p_wilcoxon=float(w), p_t=float(s), significant=bool(w < alpha))
        for each, w, s in zip(found, wilcoxon, t)
    ]
    return Family(best, float(np.mean(samples[best])), corrected, metric, unit, len(samples[best]), tuple(seeds), alpha)


# ------------------------------------------------------------------------------------------------------------
# from records


def over_seeds(records: Sequence[Record], mask: str, metric: str, alpha: float = ALPHA) -> Family | None:
    """Compare the labels of finished records of one dataset, paired by the seeds that all of them have.

    Scores are the recorded ones, rounded to six decimals (four in early records).

    Returns:
        None where the labels have fewer than two seeds in common: there is nothing to test then.

    Raises:
        UserError: there are fewer than two labels, records of several datasets, or no such metric.
    """
    by_label = _by_label(records)
    seeds = _common_seeds(by_label)
    if len(seeds) < 2:
        return None
    samples = {
        label: np.array([_score(runs[seed], mask, metric) for seed in seeds]) for label, runs in by_label.items()
    }
    return compare(samples, metric, "seed", seeds, alpha)


def over_users(records: Sequence[Record], folder: str | Path, mask: str, metric: str, alpha: float = ALPHA) -> Family:
    """Compare the labels of finished records of one dataset, paired by user.

    A user's value is the mean over the seeds that all labels have.

    Args:
        folder: where the file of runs lies, to which ``per_user`` is relative.

    Raises:
        UserError: as :func:`over_seeds`; the labels have no seed in common; a record has no results per user, or for
            other users than the others of its seed.
    """
    by_label = _by_label(records)
    seeds = _common_seeds(by_label)
    if not seeds:
        raise UserError(f"{', '.join(by_label)} have no seed in common: run them with the same seeds")
    sums: dict[str, np.ndarray] = {}
    counts, everybody = None, None
    for seed in seeds:
        tables = {label: _users(runs[seed], folder, mask, metric) for label, runs in by_label.items()}
        first, (tokens, _) = next(iter(tables.items()))
        for label, (others, _) in tables.items():
            if not np.array_equal(tokens, others):
                raise UserError(
                    f"{label} and {first} were not tested on the same users with seed {seed} "
                    f"({len(others)} and {len(tokens)}): they must share data and split to be compared by user"
                )
        if everybody is None:
            everybody, counts = tokens, np.ones(len(tokens))
            sums = {label: values for label, (_, values) in tables.items()}
            continue
        if not np.array_equal(everybody, tokens):
            raise UserError(
                f"seeds {seeds[0]} and {seed} tested other users, as each splits the data anew: compare over seeds, "
                "or prepare a split that all seeds share"
            )
        counts += 1
        sums = {label: sums[label] + values for label, (_, values) in tables.items()}
    return compare({label: total / counts for label, total in sums.items()}, metric, "user", seeds, alpha)


def _by_label(records: Sequence[Record]) -> dict[str, dict[int, Record]]:
    """Label -> seed -> finished record."""
    by_label: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.is_finished:
            known = by_label.setdefault(record.label, {}).setdefault(record.seed, record)
            if known.key != record.key and known.data_hash == record.data_hash:
                raise UserError(
                    f"two different runs are called '{record.label}' and have seed {record.seed}: give them "
                    "labels of their own (--label), or choose the records to compare"
                )
    data = {(r.dataset, r.data_hash) for runs in by_label.values() for r in runs.values()}
    if len(data) > 1:
        raise UserError(
            f"the records are of different data ({', '.join(sorted(name for name, _ in data))}): only runs on the same "
            "data can be compared"
        )
    return by_label


def _common_seeds(by_label: Mapping[str, Mapping[int, dict]]) -> list[int]:
    return sorted(set.intersection(*(set(runs) for runs in by_label.values()))) if by_label else []


def _score(record: Record, mask: str, metric: str) -> float:
    try:
        return record.test[mask][metric.lower()]
    except KeyError:
        others = ", ".join(other for other in record.test if other != mask)
        why = ", as nothing is masked under repeatable: True" if UNMASKED in record.test else ""
        have = ", ".join(record.test.get(mask, {})) or f"nothing under the mask '{mask}'"
        have += f" (but under {others}{why})" if mask not in record.test and others else ""
        raise UserError(f"the record of {record.label} has no '{metric}': it has {have}") from None


def _users(record: Record, folder: str | Path, mask: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """User tokens in ascending order and their values; a user with several test cases stands there several times."""
    _score(record, mask, metric)  # says which masks there are
    if record.per_user is None:
        raise UserError(
            f"there are no results per user of {record.label}, {record.dataset}, seed {record.seed}: "
            "compare over seeds, or delete its line from the file of runs and start the group again"
        )
    frame = users.read(Path(folder) / record.per_user)
    tokens = frame["user"].to_numpy()
    order = np.argsort(tokens, kind="stable")
    return tokens[order], users.values(frame, mask, metric)[order]
