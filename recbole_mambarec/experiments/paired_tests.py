"""Paired comparisons of two models: tests, effect sizes, an interval, and Holm's correction for several of them.

* Wilcoxon's signed-rank test, two-sided, zero differences dropped, ties at average ranks; exact up to 50 differences
  (given the ties), beyond that scipy's normal approximation, corrected for ties.
* Student's t-test on the differences, two-sided.
* Effect sizes: Cohen's d_z, the mean difference over the standard deviation of the differences, and the matched-pairs
  rank-biserial correlation, (W+ - W-) / (W+ + W-): 1 or -1 if all differences that are not zero have the same sign.
* Percentile bootstrap interval of the mean difference, pairs drawn with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
BOOTSTRAP_SEED = 0
# the signed-rank test is exact up to this number of differences
_EXACT = 50
# resamples x distinct differences that are drawn at a time
_BLOCK = 1 << 23


@dataclass(frozen=True)
class Comparison:
    """The best model compared with another one.

    Attributes:
        label: the other model.
        mean: its mean.
        difference: best minus other, mean over pairs.
        interval: bootstrap confidence interval of ``difference``.
        nonzero: number of pairs with a difference.
        p_wilcoxon, p_t: p-values; those of :func:`~recbole_mambarec.experiments.significance.compare` are corrected.
        d_z, rank_biserial: effect sizes; NaN where they are not defined (a single pair; no difference at all).
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


def paired(label: str, best: np.ndarray, other: np.ndarray) -> Comparison:
    """Compare two samples ``(n,)`` whose k-th entries form a pair; p-values are not corrected."""
    difference = np.asarray(best, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    # means that were equal before rounding errors must count as equal: values by user are stored in float32, and
    # records have six decimals
    difference[np.abs(difference) < 5e-7] = 0.0
    n, nonzero = len(difference), difference[difference != 0]
    spread = difference.std(ddof=1) if n > 1 else math.nan
    if spread <= 1e-9 * abs(difference.mean()):
        spread = 0.0
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
    """Two-sided p-value of Wilcoxon's signed-rank test on differences ``(n,)``, none of which is zero."""
    if len(difference) > _EXACT:
        return float(stats.wilcoxon(difference, method="approx").pvalue)
    # scipy's exact test does not allow ties, which rounded scores have; average ranks are multiples of a half
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(np.int64)
    probability: np.ndarray = np.ones(1)  # probability[w] of a rank sum w, each sign being as likely as the other
    for rank in ranks:
        probability = (np.pad(probability, (0, rank)) + np.pad(probability, (rank, 0))) / 2
    observed = ranks[difference > 0].sum()
    return float(min(1.0, 2 * min(probability[: observed + 1].sum(), probability[observed:].sum())))


def bootstrap_interval(
    difference: np.ndarray, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Percentile interval of the mean of ``difference``, ``(n,)``.

    Drawing n values with replacement is the same as drawing how often each distinct value occurs. Most users differ by
    one of a few values, so this takes a fraction of the time and memory.
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
