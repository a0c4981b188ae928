"""How scores come about without the model: from embeddings, from weights between items, or from kept lists.

Users and items are rows and columns from 0. A *history* is a sparse matrix ``(B, n_items)`` that says how often each
user has which item; it stands for users whom the model was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_common.errors import UserError

#: of reciprocal ranks: "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009
RANK_OFFSET = 60


class Scoring(Protocol):
    """What a recommender needs of a model."""

    @property
    def kind(self) -> str:
        """How scores come about, as the card of a bundle names it."""
        ...

    @property
    def fold_in_by(self) -> str | None:
        """How users with a history of their own are scored, as the end of a sentence; None if they cannot be."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether effects add up to the score."""
        ...

    @property
    def depth(self) -> int | None:
        """How many unseen items of each user are known; None if all are."""
        ...

    def scores(self, users: np.ndarray) -> np.ndarray:
        """Scores of the users in rows ``users`` ``(B,)`` for all items: floating-point ``(B, n_items)``, writable."""
        ...

    def fold_in(self, history: sp.csr_array) -> np.ndarray:
        """Scores of users who have this history: floating-point ``(B, n_items)``, writable."""
        ...

    def similar(self, items: np.ndarray) -> np.ndarray:
        """How similar all items are to some ``(B,)``: floating-point ``(B, n_items)``, writable.

        What an item is to itself has no meaning.
        """
        ...

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """What each item of ``history`` ``(n,)`` adds to the score of ``item``, for a user who has ``size`` items.

        ``history`` may be a part of the user's items, with repetitions.
        """
        ...


class FoldIn(NamedTuple):
    """The embedding that a trained model would give a user, as a linear function of the user's items.

    A user with the items H has the embedding ``x(H) @ weights + bias`` where x(H) has, side by side, the mean of the
    items' embeddings and their sum, each divided by the roots of the numbers of users of the item and of items of the
    user, as in the propagation of LightGCN. The function is the one that is nearest, in least squares, to what training
    gave the known users.

    Attributes:
        weights: float32 ``(2 d, d)``.
        bias: float32 ``(d,)``.
        roots: of the numbers of training users of each item, float32 ``(n_items,)``; 1 for an item without any.
    """

    weights: np.ndarray
    bias: np.ndarray
    roots: np.ndarray

    def inputs(self, history: sp.csr_array, items: np.ndarray) -> np.ndarray:
        """x(H) of each user, float32 ``(B, 2 d)``."""
        counts = np.maximum(history.sum(axis=1), 1e-12).astype(np.float32)[:, None]
        mean = (history @ items) / counts
        normalised = (history @ (items / self.roots[:, None])) / np.sqrt(counts)
        return np.concatenate([mean, normalised], axis=1).astype(np.float32)

    def users(self, history: sp.csr_array, items: np.ndarray) -> np.ndarray:
        """Embeddings of users with this history, float32 ``(B, d)``."""
        return self.inputs(history, items) @ self.weights + self.bias


class InnerProducts:
    """Scores are inner products of embeddings.

    Args:
        users: float32 ``(n_users, d)``.
        items: float32 ``(n_items, d)``.
        fold_in: the function for new users.
    """

    kind = "embeddings"
    fold_in_by = "the linear function of the items' embeddings that is nearest to the trained users'"
    is_exact = False
    depth: int | None = None

    def __init__(self, users: np.ndarray, items: np.ndarray, fold_in: FoldIn) -> None:
        self.users, self.items, self.function = users, items, fold_in

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.scores`."""
        return self.users[users] @ self.items.T

    def fold_in(self, history: sp.csr_array) -> np.ndarray:
        """See :meth:`Scoring.fold_in`."""
        return self.function.users(history, self.items) @ self.items.T

    @cached_property
    def _directions(self) -> np.ndarray:
        return self.items / np.maximum(np.linalg.norm(self.items, axis=1, keepdims=True), 1e-12)

    def similar(self, items: np.ndarray) -> np.ndarray:
        """Cosines of the embeddings."""
        return self._directions[items] @ self._directions.T

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """See :meth:`Scoring.effects`; they add up to the score of the folded-in user, less the bias."""
        direction = self.function.weights @ self.items[item]
        own, width = self.items[history], self.items.shape[1]
        mean = own @ direction[:width] / size
        return mean + own @ direction[width:] / (self.function.roots[history] * np.sqrt(size))


class Factors(NamedTuple):
    """A matrix of weights as a product: ``W = source @ target.T``, float32 ``(n_items, width)`` each."""

    source: np.ndarray
    target: np.ndarray

    def of_histories(self, history: sp.csr_array) -> np.ndarray:
        """``history @ W``, dense."""
        return (history @ self.source) @ self.target.T

    def entries(self, rows: np.ndarray, column: int) -> np.ndarray:
        """Entries of one column."""
        return self.source[rows] @ self.target[column]


class Listed(NamedTuple):
    """A sparse matrix of weights, float32 ``(n_items, n_items)``."""

    matrix: sp.csr_array

    def of_histories(self, history: sp.csr_array) -> np.ndarray:
        """As :meth:`Factors.of_histories`."""
        return (history @ self.matrix).toarray()

    def entries(self, rows: np.ndarray, column: int) -> np.ndarray:
        """As :meth:`Factors.entries`."""
        return self.matrix[rows][:, [column]].toarray()[:, 0]


class Dense(NamedTuple):
    """A dense matrix of weights, float32 ``(n_items, n_items)``."""

    matrix: np.ndarray

    def of_histories(self, history: sp.csr_array) -> np.ndarray:
        """As :meth:`Factors.of_histories`."""
        return history @ self.matrix

    def entries(self, rows: np.ndarray, column: int) -> np.ndarray:
        """As :meth:`Factors.entries`."""
        return self.matrix[rows, column]


class ItemWeights:
    """The score of item i is the sum of ``W_hi`` over the user's training items h.

    Args:
        parts: matrices whose sum is W.
        history: training interactions, float32 ``(n_users, n_items)``.
    """

    kind = "item_weights"
    fold_in_by = "the sum of the weights of the items, which is exact"
    is_exact = True
    depth: int | None = None

    def __init__(self, parts: Sequence[Factors | Listed | Dense], history: sp.csr_array) -> None:
        self.parts, self.history = list(parts), history

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.scores`."""
        return self.fold_in(self.history[users])

    def fold_in(self, history: sp.csr_array) -> np.ndarray:
        """See :meth:`Scoring.fold_in`."""
        first, *others = (part.of_histories(history) for part in self.parts)
        for scores in others:
            first = first + scores
        return first

    def similar(self, items: np.ndarray) -> np.ndarray:
        """What an item adds to the scores of all items."""
        n_items = self.history.shape[1]
        alone = sp.csr_array((np.ones(len(items), np.float32), items, range(len(items) + 1)), (len(items), n_items))
        return self.fold_in(alone)

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """See :meth:`Scoring.effects`; they add up to the score."""
        return np.sum([part.entries(history, item) for part in self.parts], axis=0)


class TopLists:
    """Scores are known for each user's best items and for those that the user has seen, and for no others.

    Args:
        listed: scores of the ``depth`` best unseen items and of all seen ones, ``(n_users, n_items)``.
        depth: the number of unseen items.
        name: of the model, for messages.
    """

    kind = "lists"
    fold_in_by = None
    is_exact = False

    def __init__(self, listed: sp.csr_array, depth: int, name: str) -> None:
        self.listed, self.depth, self._name = listed, depth, name

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.scores`; minus infinity where none is known."""
        rows = self.listed[users]
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        scores[np.repeat(np.arange(len(users)), np.diff(rows.indptr)), rows.indices] = rows.data
        return scores

    def _refused(self) -> UserError:
        return UserError(
            f"{self._name} ranks by neither embeddings nor weights between items, so that only the best "
            f"{self.depth} items of each known user are here: ask for those, or export another model"
        )

    def fold_in(self, history: sp.csr_array) -> np.ndarray:
        """Refused: lists say nothing of other users."""
        raise self._refused()

    def similar(self, items: np.ndarray) -> np.ndarray:
        """Refused, likewise."""
        raise self._refused()

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """Refused, likewise."""
        raise self._refused()


def zscore(scores: np.ndarray) -> np.ndarray:
    """See :func:`recbole_mambarec.scoring.fused.zscore`."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    return centred / np.where(deviation == 0, 1.0, deviation)


def ranks(scores: np.ndarray) -> np.ndarray:
    """See :func:`recbole_mambarec.scoring.fused.ranks`."""
    found = np.empty_like(scores)
    for row, out in zip(-scores, found):
        ascending = np.sort(row)
        before, up_to = (np.searchsorted(ascending, row, side=side) for side in ("left", "right"))
        out[:] = 1.0 / (RANK_OFFSET + (before + up_to + 1) / 2)
    return found


def raw(scores: np.ndarray) -> np.ndarray:
    """The scores themselves."""
    return scores


NORMALISATIONS = {"zscore": zscore, "ranks": ranks, "raw": raw}


class Fused:
    """A weighted sum of normalised scores, in float64.

    Args:
        parts: of the same users and items, in one order.
        weights: one per part, positive.
        normalisation: a name in :data:`NORMALISATIONS`.
        n_items: of the catalogue.
    """

    kind = "fusion"
    is_exact = False
    depth: int | None = None

    def __init__(self, parts: Sequence[Scoring], weights: Sequence[float], normalisation: str, n_items: int) -> None:
        self._n_items = n_items
        self.parts, self.weights, self.normalisation = list(parts), list(weights), normalisation
        self.fold_in_by = "the fusion of what its parts give a new user"

    def _sum(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        total = np.zeros(scores[0].shape)
        for part, weight in zip(scores, self.weights):
            total += weight * NORMALISATIONS[self.normalisation](part.astype(np.float64))
        return total

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.scores`."""
        return self._sum([part.scores(users) for part in self.parts])

    def fold_in(self, history: sp.csr_array) -> np.ndarray:
        """See :meth:`Scoring.fold_in`."""
        return self._sum([part.fold_in(history) for part in self.parts])

    def similar(self, items: np.ndarray) -> np.ndarray:
        """The fusion of the parts' similarities."""
        return self._sum([part.similar(items) for part in self.parts])

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """The parts' effects in standard deviations of their scores, weighted."""
        total = np.zeros(len(history))
        row = sp.csr_array((np.ones(len(history)), history, [0, len(history)]), shape=(1, self._n_items))
        for part, weight in zip(self.parts, self.weights):
            deviation = 1.0 if self.normalisation == "raw" else float(part.fold_in(row).std()) or 1.0
            total += weight * part.effects(history, item, size) / deviation
        return total


class OfSimilarUsers(NamedTuple):
    """Scores by the users who are most similar to a user without training interactions, by features of users.

    Attributes:
        rows: the row of each user, int64 ``(n_users,)``; -1 for users with training interactions, and for those whom
            the features make similar to nobody.
        scores: float32 ``(n_rows, n_items)``; an entry is at least 1.
    """

    rows: np.ndarray
    scores: sp.csr_array


class WithColdUsers:
    """Scores in which users without training interactions have others than the model's.

    They have the popularities of the items, and to these is added what similar users have, if they are known.

    Args:
        base: scores of everybody else.
        cold: which users have none, bool ``(n_users,)``.
        popularity: float32 ``(n_items,)``.
        of_similar: scores of cold users by similar ones; None where only the popularity counts.
    """

    def __init__(
        self, base: Scoring, cold: np.ndarray, popularity: np.ndarray, of_similar: OfSimilarUsers | None = None
    ) -> None:
        self.base, self.cold, self.popularity, self.of_similar = base, cold, popularity, of_similar
        self.kind, self.fold_in_by, self.is_exact, self.depth = base.kind, base.fold_in_by, base.is_exact, base.depth
        self.fold_in, self.similar, self.effects = base.fold_in, base.similar, base.effects

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.scores`."""
        scores = self.base.scores(users)
        cold = self.cold[users]
        scores[cold] = self.popularity
        if self.of_similar is not None:
            rows = self.of_similar.rows[users]
            found = cold & (rows >= 0)
            scores[found] += self.of_similar.scores[rows[found]].toarray()
        return scores

    def in_order(self, base: Scoring, rows: np.ndarray, columns: np.ndarray) -> WithColdUsers:
        """The same over another base, whose users and items are ``rows`` and ``columns`` of those here."""
        of = self.of_similar
        found = None if of is None else OfSimilarUsers(of.rows[rows], sp.csr_array(of.scores[:, columns]))
        return WithColdUsers(base, self.cold[rows], self.popularity[columns], found)


class WithNewItems:
    """More items, each of which is scored as the mean of known items.

    With embeddings, that gives a new item the mean of their embeddings; with weights between items, the mean of their
    rows and columns.

    Args:
        base: scores of the known items.
        means: row k has the weights of known items in new item k, which add up to 1: ``(n_new, n_items)``.
    """

    def __init__(self, base: Scoring, means: sp.csr_array) -> None:
        self.base, self._means = base, means
        self.kind, self.fold_in_by, self.is_exact, self.depth = base.kind, base.fold_in_by, base.is_exact, base.depth

    def _widened(self, scores: np.ndarray) -> np.ndarray:
        new = (self._means.astype(scores.dtype) @ scores.T).T
        return np.concatenate([scores, new], axis=1)

    def _made_of(self, items: np.ndarray) -> sp.csr_array:
        """What items are made of: a row of weights of the known items for each, ``(B, n_items)``."""
        return sp.csr_array(sp.vstack([sp.eye_array(self._means.shape[1]), self._means]).tocsr()[items])

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.scores`."""
        return self._widened(self.base.scores(users))

    def fold_in(self, history: sp.csr_array) -> np.ndarray:
        """See :meth:`Scoring.fold_in`; new items may be part of the history."""
        known = self._means.shape[1]
        return self._widened(self.base.fold_in(sp.csr_array(history[:, :known] + history[:, known:] @ self._means)))

    def similar(self, items: np.ndarray) -> np.ndarray:
        """See :meth:`Scoring.similar`; means over what a new item is made of."""
        made_of = self._made_of(items)
        parts, places = np.unique(made_of.indices, return_inverse=True)
        weights = sp.csr_array((made_of.data, places, made_of.indptr), shape=(len(items), len(parts)))
        found = self.base.similar(parts)
        return self._widened(np.asarray(weights.astype(found.dtype) @ found))

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """See :meth:`Scoring.effects`; means, likewise."""
        made_of, wanted = self._made_of(history), self._made_of(np.array([item]))
        total = np.zeros(made_of.nnz)
        for part, weight in zip(wanted.indices, wanted.data):
            total += weight * self.base.effects(made_of.indices, int(part), size)
        return sp.csr_array((total * made_of.data, made_of.indices, made_of.indptr), shape=made_of.shape).sum(axis=1)
