"""Scores of items and users without training interactions (``cold_items``, ``cold_scale``, ``cold_users``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.cache import content_key
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.imputation import Nearest, nearest_by_features
from recbole_mambarec.data.similar_users import OfSimilarUsers, of_similar_users
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.features import FeatureTable
from recbole_mambarec.layers.listed_scores import ListedScores

#: what the keys can be
COLD_ITEMS, COLD_USERS = ("id", "content", "neighbours"), ("id", "popularity", "features")
# part of the cache key: raise it when the search computes something else
_VERSION = 2


def item_ids(model: nn.Module, n_users: int, n_items: int) -> Tensor | None:
    """The ids of the items in a model, ``(n_items, width)``, a view of the parameter; None if it has none.

    Models call the table ``item_embedding``, or have users and items in one called ``node_ids``.
    """
    for name, first in (("item_embedding", 0), ("node_ids", n_users)):
        table = getattr(model, name, None)
        weight = getattr(table, "weight", table)
        if isinstance(weight, Tensor) and weight.ndim == 2 and len(weight) == first + n_items:
            return weight.detach()[first:]
    return None


def reads_features(model: nn.Module, data: TrainingData) -> bool:
    """Whether scores depend on features."""
    may = getattr(model, "min_modalities", 0) > 0 or any(isinstance(m, FeatureTable) for m in model.modules())
    return may and bool(data.modalities)


def obstacle(model: nn.Module, data: TrainingData) -> str | None:
    """Why a model supports no other ``cold_items`` than ``id``, as the end of a sentence; None if it supports all."""
    if not reads_features(model, data):
        return "reads no features"
    if item_ids(model, data.n_users, data.n_items) is None:
        return "has no ids of items"
    if not getattr(model, "uses_ids_of_new_items", True):
        return "scores items without training interactions by their features alone"
    return None


def scale_obstacle(model: nn.Module, data: TrainingData) -> str | None:
    """Why ``cold_scale`` has no effect on a model, as the end of a sentence; None if it has one."""
    if not reads_features(model, data):
        return "reads no features"
    if getattr(model, "cold_scale_of", None) is None:
        return "scores new items as it scores all others"
    return None


def choices(model: nn.Module, data: TrainingData) -> tuple[str, ...]:
    """The values of ``cold_items`` that a model supports."""
    return COLD_ITEMS if obstacle(model, data) is None else COLD_ITEMS[:1]


class ColdItems:
    """Ids that items without training interactions have in scores.

    ``content``: zero, so that only features and graphs speak for the item. ``neighbours``: the mean of the ids of the
    items with training interactions that are most similar by their features (:func:`nearest_by_features`); zero for an
    item that shares a modality with none of them.

    Args:
        data: the training data.
        how: ``content`` or ``neighbours``.
        k: neighbours.
    """

    def __init__(self, data: TrainingData, how: str, k: int) -> None:
        known = data.known_items
        self.data, self.how, self.k, self.known = data, how, k, known
        self.items = np.flatnonzero(~known)
        self._mean: SparseGraph | None = None

    @contextmanager
    def replaced(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, the model has these ids; no gradient may be computed from it.

        Raises:
            UserError: the model does not support the choice.
        """
        table = self.check(model)
        items = torch.from_numpy(self.items).to(table.device)
        before = table[items].clone()
        table[items] = self._ids(table)
        try:
            yield
        finally:
            table[items] = before

    def check(self, model: nn.Module) -> Tensor:
        """The ids of the items in a model, or an error if it does not support the choice."""
        name, reason = type(model).__name__, obstacle(model, self.data)
        ids = item_ids(model, self.data.n_users, self.data.n_items)
        if reason is not None or ids is None:
            raise UserError(f"cold_items: {name}, which {reason}, does not support '{self.how}': use id")
        return ids

    def _ids(self, table: Tensor) -> Tensor:
        if self.how == "content" or len(self.items) == 0:
            return torch.zeros(len(self.items), table.shape[1], device=table.device)
        if self._mean is None:
            self._mean = self._weights().to(table.device)
        return self._mean.propagate(table)

    def _weights(self) -> SparseGraph:
        """The mean over the neighbours of each item, ``(items, n_items)``."""
        data, key = self.data, {"k": self.k, "version": _VERSION, "known": content_key(self.known)}
        found = data.kept("cold-neighbours", key, lambda: self._search()._asdict(), of_interactions=False)
        lists = found["nearest"]
        exists = lists >= 0
        rows = np.broadcast_to(np.searchsorted(self.items, found["items"])[:, None], lists.shape)
        weights = np.broadcast_to(1.0 / exists.sum(axis=1, keepdims=True), lists.shape)
        shape = (len(self.items), data.n_items)
        return SparseGraph(sp.coo_array((weights[exists], (rows[exists], lists[exists])), shape=shape))

    def _search(self) -> Nearest:
        features = {m: self.data.features(m) for m in self.data.modalities}
        present = {m: self.data.present(m) for m in self.data.modalities}
        return nearest_by_features(features, present, ~self.known, self.known, self.k)


class ColdScale:
    """Final embeddings of items without training interactions, as long as those of others.

    No interaction has lengthened them, so that their scores are small and such items are ranked behind all others. All
    are multiplied with one number: each user ranks them among each other as before.

    Args:
        data: the training data.
        relative: their length relative to that of the others (root mean square).
    """

    def __init__(self, data: TrainingData, relative: float) -> None:
        known = data.known_items
        # RecBole's ids, in which 0 is padding
        self.relative, self.known = relative, torch.from_numpy(np.append(False, known))
        self.new = torch.from_numpy(np.append(False, ~known))

    def scaled(self, items: Tensor) -> Tensor:
        """Embeddings ``(n_items + 1, d)`` in which the rows of these items are scaled."""
        squares, new = items.square().sum(dim=1), self.new.to(items.device)
        # no item may be new, and nothing may be known of those that are: 0 / 0, which is not above 0
        known_square, new_square = (
            (squares * which).sum() / which.sum() for which in (self.known.to(items.device), new)
        )
        factor = torch.where(new_square > 0, self.relative * (known_square / new_square).sqrt(), 1.0)
        return torch.where(new[:, None], factor * items, items)


class ColdUsers:
    """Scores of users without training interactions.

    ``popularity``: the number of training interactions of the item. ``features``: how many of the users who are most
    similar by their features have the item (:func:`of_similar_users`), and the popularity as a share, which is below 1:
    it orders what is equal otherwise, and all items for users whom the features make similar to nobody.

    Args:
        data: the training data.
        how: ``popularity`` or ``features``.
        k: how many users are compared with.

    Raises:
        UserError: ``features``, and the data have none of users.
    """

    def __init__(self, data: TrainingData, how: str, k: int) -> None:
        popularity = np.bincount(data.items, minlength=data.n_items).astype(np.float64)
        cold = np.bincount(data.users, minlength=data.n_users) == 0
        rows = np.zeros(data.n_users, dtype=np.int64)
        self.listed: ListedScores | None = None
        if how == "features":
            popularity /= popularity.max() + 1
            found = _of_similar_users(data, k)
            rows = found.rows + 1
            self.listed = ListedScores(found.scores) if found.scores.nnz else None
        # RecBole's ids, in which 0 is padding
        self.popularity = torch.from_numpy(np.append(0.0, popularity).astype(np.float32))
        self.cold = torch.from_numpy(np.append(False, cold))
        self.rows = torch.from_numpy(np.append(0, rows))

    def to(self, device: torch.device) -> ColdUsers:
        """The same on another device."""
        self.popularity, self.cold = self.popularity.to(device), self.cold.to(device)
        self.rows, self.listed = self.rows.to(device), self.listed and self.listed.to(device)
        return self

    def replaced(self, scores: Tensor, users: Tensor, items: Tensor | None) -> Tensor:
        """As :meth:`~recbole_mambarec.models.base.MultimodalRecommender.with_cold_users`."""
        rows = self.rows[users]
        if items is None:
            found = self.popularity if self.listed is None else self.listed.of_users(rows) + self.popularity
            return torch.where(self.cold[users][:, None], found, scores)
        popularity = self.popularity[items]
        found = popularity if self.listed is None else self.listed.of_pairs(rows, items) + popularity
        return torch.where(self.cold[users], found, scores)


def _of_similar_users(data: TrainingData, k: int) -> OfSimilarUsers:
    features, history = data.user_features, data.history
    if features is None:
        raise UserError("cold_users 'features': the dataset has no columns of users, use popularity")
    found = of_similar_users(features, history, k)
    cold = np.diff(history.indptr) == 0
    log, by = getLogger(), ", ".join(features.columns)
    log.info(f"cold_users: {cold.sum()} users without training interactions are compared with others by {by}")
    alone = int((cold & (found.rows < 0)).sum())
    if alone:
        log.warning(
            f"cold_users 'features' finds nobody who is similar to {alone} of the {cold.sum()} users without training "
            f"interactions by {by}: they are ranked by popularity"
        )
    return found
