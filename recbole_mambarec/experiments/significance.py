"""Is the best model better than each of the others? Paired tests over users or over seeds.

For one metric on one dataset, the model with the best mean (the highest, or the lowest for those of RecBole's metrics
that are better when smaller) is compared with each of the others by :mod:`~recbole_mambarec.experiments.paired_tests`.
These comparisons are the family to which Holm's correction applies. Pairs are the values of the same user under both
models (means over the seeds that all models have), or of the same seed.

What a report says about a family is in :mod:`recbole_mambarec.report.significance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from recbole.evaluator import smaller_metrics

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import users
from recbole_mambarec.experiments.paired_tests import Comparison, holm, paired
from recbole_mambarec.experiments.store import UNMASKED, Record

ALPHA = 0.05


@dataclass(frozen=True)
class Family:
    """All comparisons for one metric on one dataset.

    Attributes:
        best, best_mean: the model with the best mean.
        comparisons: the other models, in descending order of quality.
        metric: e.g. ``recall@20``.
        unit: what a pair is, ``user`` or ``seed``.
        pairs: number of pairs.
        seeds: the seeds behind each value (by user), or those that are compared (by seed).
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
    def smallest_p(self) -> float:
        """The smallest p-value that the signed-rank test can give for this number of pairs."""
        return 2.0 ** (1 - self.pairs)


def compare(
    samples: Mapping[str, np.ndarray], metric: str, unit: str, seeds: Sequence[int], alpha: float = ALPHA
) -> Family:
    """Compare the best of several samples with each of the others.

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
        raise UserError(f"each model needs the same number of values to be compared in pairs, got {sizes}")
    smaller_is_better = metric.partition("@")[0].lower() in smaller_metrics
    order = sorted(samples, key=lambda label: np.mean(samples[label]), reverse=not smaller_is_better)
    best = order[0]
    comparisons = [paired(label, samples[best], samples[label]) for label in order[1:]]
    wilcoxon, t = (holm([getattr(each, name) for each in comparisons]) for name in ("p_wilcoxon", "p_t"))
    corrected = [
        replace(each, p_wilcoxon=float(w), p_t=float(s), significant=bool(w < alpha))
        for each, w, s in zip(comparisons, wilcoxon, t)
    ]
    return Family(best, float(np.mean(samples[best])), corrected, metric, unit, len(samples[best]), tuple(seeds), alpha)


# ------------------------------------------------------------------------------------------------------------
# from records


def over_seeds(records: Sequence[Record], mask: str, metric: str, alpha: float = ALPHA) -> Family | None:
    """Compare the labels of finished records of one dataset, paired by the seeds that all of them have.

    The scores are the recorded ones, rounded to six decimals (four in early records).

    Returns:
        None if the labels have fewer than two seeds in common: nothing can be tested then.

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
        folder: the folder of the file of runs, to which ``per_user`` is relative.

    Raises:
        UserError: as :func:`over_seeds`; or the labels have no seed in common; or a record has no results per user, or
            has them for other users than the other records.
    """
    by_label = _by_label(records)
    seeds = _common_seeds(by_label)
    if not seeds:
        raise UserError(f"{', '.join(by_label)} have no seed in common: run them with the same seeds")
    totals: dict[str, Any] = dict.fromkeys(by_label, 0.0)  # arrays, once there is one
    users_of_first_seed = None
    for seed in seeds:
        tokens, values = _values_of_seed(by_label, seed, folder, mask, metric)
        if users_of_first_seed is None:
            users_of_first_seed = tokens
        elif not np.array_equal(users_of_first_seed, tokens):
            raise UserError(
                f"seeds {seeds[0]} and {seed} were tested on different users, because each seed splits the data anew: "
                "compare over seeds, or prepare a split that all seeds share"
            )
        totals = {label: totals[label] + values[label] for label in totals}
    means = {label: total / len(seeds) for label, total in totals.items()}
    return compare(means, metric, "user", seeds, alpha)


def _by_label(records: Sequence[Record]) -> dict[str, dict[int, Record]]:
    """Label -> seed -> finished record."""
    by_label: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.is_finished:
            first = by_label.setdefault(record.label, {}).setdefault(record.seed, record)
            if first.key != record.key and first.data_hash == record.data_hash:
                raise UserError(
                    f"two different runs are called '{record.label}' and have seed {record.seed}: give them "
                    "different labels (--label), or choose the records to compare"
                )
    data = {(r.dataset, r.data_hash) for runs in by_label.values() for r in runs.values()}
    if len(data) > 1:
        raise UserError(
            f"the records are of different data ({', '.join(sorted(name for name, _ in data))}): only runs on the same "
            "data can be compared"
        )
    return by_label


def _common_seeds(by_label: Mapping[str, Mapping[int, Record]]) -> list[int]:
    return sorted(set.intersection(*(set(runs) for runs in by_label.values()))) if by_label else []


def _score(record: Record, mask: str, metric: str) -> float:
    try:
        return record.test[mask][metric.lower()]
    except KeyError:
        other_masks = ", ".join(other for other in record.test if other != mask)
        why = ", as nothing is masked under repeatable: True" if UNMASKED in record.test else ""
        have = ", ".join(record.test.get(mask, {})) or f"nothing under the mask '{mask}'"
        have += f" (but under {other_masks}{why})" if mask not in record.test and other_masks else ""
        raise UserError(f"the record of {record.label} has no '{metric}': it has {have}") from None


def _values_of_seed(
    by_label: Mapping[str, Mapping[int, Record]], seed: int, folder: str | Path, mask: str, metric: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(user tokens of the test cases, label -> their values); all labels were tested on the same users."""
    tokens, values, first = None, {}, ""
    for label, runs in by_label.items():
        tokens_of_label, values[label] = _values_per_user(runs[seed], folder, mask, metric)
        if tokens is None:
            tokens, first = tokens_of_label, label
        elif not np.array_equal(tokens, tokens_of_label):
            raise UserError(
                f"{label} and {first} were not tested on the same users with seed {seed} "
                f"({len(tokens_of_label)} and {len(tokens)}): they must share data and split to be compared by user"
            )
    return tokens, values


def _values_per_user(record: Record, folder: str | Path, mask: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """User tokens in ascending order and their values; a user with several test cases occurs several times."""
    _score(record, mask, metric)  # its error names the masks and metrics that there are
    if record.per_user is None:
        raise UserError(
            f"there are no results per user of {record.label}, {record.dataset}, seed {record.seed}: "
            "compare over seeds, or delete its line from the file of runs and start the group again"
        )
    frame = users.read(Path(folder) / record.per_user)
    tokens = frame["user"].to_numpy()
    order = np.argsort(tokens, kind="stable")
    return tokens[order], users.values(frame, mask, metric)[order]
