"""Weights of a fusion, found on the validation split alone.

Scores are read once, in blocks of users, and of each user only the items are kept that can reach the top k under some
weights: see :meth:`Candidates.add`. Every weighting is then evaluated on them, exactly, without asking a model again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from recbole.config import Config
from recbole.evaluator import DataStruct
from recbole.evaluator.register import metrics_dict
from torch import Tensor
from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec.scoring.fused import FusedScorer, zscore
from recbole_mambarec.scoring.splits import Splits

#: users of the validation split on which weights are sought; of more, this many are drawn
MOST_USERS = 50_000
# weights of a part that are tried, as multiples of the sum of the others
_GRID = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
_MOST_ROUNDS = 10
# scores of one part that are read at a time, at least
_BLOCK_PAIRS = 1 << 22
# arrays into which the candidates of a block are divided, and the fewest users of one
_ARRAYS, _FEWEST_USERS = 16, 32
# members of a greedy ensemble, so that weights are multiples of a twentieth at the finest
_MEMBERS = 20


class Candidates:
    """The items of each user that any weights can bring into the top k, with the normalised scores of all parts.

    Memory: 8 bytes per part and 9 more per kept item of each user.

    Args:
        metric: a metric of RecBole with a cut-off, such as ``recall@20``, that depends on the hits among the first k.
        config: RecBole's.

    Raises:
        UserError: the metric is of another kind.
    """

    def __init__(self, metric: str, config: Config) -> None:
        name, _, cutoff = metric.lower().partition("@")
        kind = metrics_dict.get(name)
        needs = getattr(kind, "metric_need", None)
        if kind is None or needs != ["rec.topk"] or not cutoff.isdecimal() or cutoff == "0":
            raise UserError(
                f"weights cannot be found by {metric}: name a metric of ranked lists with a cut-off, such as Recall@20 "
                "or NDCG@20"
            )
        self.name, self.k = f"{name}@{cutoff}", int(cutoff)
        before = config["topk"]
        config["topk"] = [self.k]
        try:
            self._metric = kind(config)
        finally:
            config["topk"] = before
        self._metric.decimal_place = 16
        self._blocks: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, scores: Tensor, left_out: Tensor, positives: tuple[Tensor, Tensor]) -> None:
        """Add a block of users.

        An item is left out if k others have at least its score in *every* part: whatever the weights, as none is
        negative, these k then come before it or tie with it. The k others are those whose worst score (in the user's
        standard deviations) is best, or the top k of the sum, or of one part; they themselves are kept.

        Args:
            scores: ``(P, B, n_items)``, float64.
            left_out: items that are not ranked, bool ``(B, n_items)``.
            positives: rows and items that should be found.
        """
        worst = torch.stack([zscore(part) for part in scores]).amin(dim=0)
        worst.masked_fill_(left_out, -torch.inf)
        scores.masked_fill_(left_out, -torch.inf)
        k = min(self.k, scores.shape[2])
        kept = torch.ones_like(scores[0], dtype=torch.bool)
        tops = torch.zeros_like(kept)
        for ranking in (worst, scores.sum(dim=0), *scores):
            top = ranking.topk(k, dim=1).indices
            lowest = scores.gather(2, top.expand(len(scores), -1, -1)).amin(dim=2, keepdim=True)
            kept &= (scores > lowest).any(dim=0)
            tops.scatter_(1, top, True)
        kept |= tops
        wanted = torch.zeros_like(kept)
        wanted[positives] = True
        # rows of equal length: users with about as many kept items share an array
        order = kept.sum(dim=1).argsort()
        for rows in order.tensor_split(max(1, min(_ARRAYS, len(order) // _FEWEST_USERS))):
            self._keep(scores[:, rows], kept[rows], wanted[rows])

    def _keep(self, scores: Tensor, kept: Tensor, wanted: Tensor) -> None:
        width = int(kept.sum(dim=1).max())
        chosen, items = kept.to(torch.uint8).topk(width, dim=1)
        # rows with fewer kept items are filled with what can never be ranked
        scores = scores.gather(2, items.expand(len(scores), -1, -1)).masked_fill_(chosen == 0, -torch.inf)
        self._blocks.append((scores.cpu(), wanted.gather(1, items).cpu(), wanted.sum(dim=1).cpu()))

    @property
    def per_user(self) -> float:
        """Mean number of kept items of a user, the filling of rows included."""
        return sum(hits.numel() for _, hits, _ in self._blocks) / max(1, sum(len(hits) for _, hits, _ in self._blocks))

    def value(self, weights: Sequence[float]) -> float:
        """The metric, as RecBole defines it, of the weighted sum; not rounded. Not all weights are zero."""
        return self._metric.calculate_metric(self._struct(weights))[self.name]

    def _struct(self, weights: Sequence[float]) -> DataStruct:
        rows = []
        for scores, wanted, sizes in self._blocks:
            total = sum(part * weight for part, weight in zip(scores, weights) if weight)
            top = total.topk(min(self.k, total.shape[1]), dim=1).indices
            hits = torch.zeros(len(top), self.k, dtype=torch.int64)
            hits[:, : top.shape[1]] = wanted.gather(1, top).long()
            rows.append(torch.cat([hits, sizes[:, None]], dim=1))
        struct = DataStruct()
        struct.set("rec.topk", torch.cat(rows))
        return struct


def candidates(fused: FusedScorer, splits: Splits, metric: str, progress: bool = True) -> Candidates:
    """The candidates of the validation split.

    Args:
        fused: of all parts; its weights do not matter.

    Raises:
        UserError: the metric does not suit.
    """
    found = Candidates(metric, splits.config)
    loader = splits.valid
    users = np.arange(len(loader.uid_list))
    if len(users) > MOST_USERS:
        users = np.sort(np.random.default_rng(0).choice(users, MOST_USERS, replace=False))
    # RecBole's default is a user or two at a time, which would be as many arrays
    step = max(loader.step, _BLOCK_PAIRS // len(splits.items), 1)
    starts = range(0, len(users), step)
    for start in tqdm(starts, desc="Scores of validation", unit="block", delay=2, disable=not progress):
        block, masked, rows, items = loader.collate_fn(users[start : start + step])
        scored = block[loader.uid_field].numpy() - 1
        scores = torch.stack([fused.normalised(part, scored) for part in range(len(fused.parts))])
        pairs = tuple(part.to(scores.device) for part in (*masked, rows, items))
        left_out = torch.zeros_like(scores[0], dtype=torch.bool)
        # without the padding item
        real = pairs[1] > 0
        left_out[pairs[0][real], pairs[1][real] - 1] = True
        if splits.not_ranked is not None:
            left_out |= splits.not_ranked.to(scores.device)
        found.add(scores, left_out, (pairs[2], pairs[3] - 1))
    return found


# ------------------------------------------------------------------------------------------------------------
# searches

# the metric of weights, whose sum does not matter
Value = Callable[[Sequence[float]], float]


def coordinate(value: Value, n_parts: int) -> list[float]:
    """One weight after another on a grid, until no change of one is an improvement; the best of several starts.

    It starts from the best single part, from equal weights, and from what :func:`greedy` finds.
    """
    singles = [[float(part == own) for part in range(n_parts)] for own in range(n_parts)]
    starts = [max(singles, key=value), [1.0] * n_parts, greedy(value, n_parts)]
    return _shares(max((_climb(value, start) for start in starts), key=value))


def _climb(value: Value, weights: list[float]) -> list[float]:
    best = value(weights)
    for _ in range(_MOST_ROUNDS):
        before = best
        for part in range(len(weights)):
            others = sum(weights) - weights[part]
            for factor in _GRID if others else ():
                tried = [factor * others if k == part else weight for k, weight in enumerate(weights)]
                found = value(tried)
                if found > best:
                    best, weights = found, tried
        if best == before:
            break
    return weights


def greedy(value: Value, n_parts: int) -> list[float]:
    """Forward selection with replacement (Caruana et al., ICML 2004): a part's weight is how often it was taken."""
    counts, best, weights = [0.0] * n_parts, -np.inf, [0.0] * n_parts
    for _ in range(_MEMBERS):
        grown = [[count + (k == part) for k, count in enumerate(counts)] for part in range(n_parts)]
        values = [value(each) for each in grown]
        chosen = int(np.argmax(values))
        counts = grown[chosen]
        if values[chosen] > best:
            best, weights = values[chosen], counts
    return _shares(weights)


SEARCHES: dict[str, Callable[[Value, int], list[float]]] = {
    "coordinate": coordinate,
    "greedy": greedy,
}


def _shares(weights: Sequence[float]) -> list[float]:
    """The weights with the sum 1, rounded to what is worth writing down."""
    return [round(weight / sum(weights), 4) for weight in weights]
