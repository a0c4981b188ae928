"""What a model is given: training interactions, aligned features, and the graphs built from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from recbole_mambarec.data.cache import ArrayCache, content_key
from recbole_mambarec.data.graphs.approximate import APPROXIMATE_VERSION, approximate_neighbours
from recbole_mambarec.data.graphs.bipartite import (
    bipartite_adjacency,
    interaction_matrix,
    mean_adjacency,
    prune_edges,
    user_item_block,
)
from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences, co_occurrences
from recbole_mambarec.data.graphs.neighbours import (
    NEIGHBOURS_VERSION,
    Neighbours,
    knn_graph,
    nearest_neighbours,
    nearest_neighbours_on_disk,
)
from recbole_mambarec.data.graphs.sparse import SparseGraph, weighted_sum
from recbole_mambarec.data.modality import ItemFeatures
from recbole_mambarec.data.rows import Rows, blocks
from recbole_mambarec.data.user_features import UserFeatures
from recbole_mambarec.errors import UserError
from recbole_mambarec.value_checks import check_share

# with more items, neighbours are searched approximately; the exact search takes an hour on two cores at 4480 features
EXACT_ITEMS = 100_000


class TrainingData:
    """Training interactions and item features of the real users and items, numbered from 0.

    RecBole's padding row has been removed, so nothing built on this can include it.

    Args:
        users, items: users and items of the training interactions, shape ``(n_interactions,)``.
        n_users, n_items: numbers of users and items, without padding.
        features: modality -> features with the padding row, as :meth:`Modality.align` gives them.
        cache: keeps item neighbours.
        progress: whether to show progress bars for long work.
        knn_search: how item neighbours are searched, ``exact`` or ``approximate``; if None, it depends on the number of
            items.
        user_features: columns by which users without training interactions are compared with others, if they are.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        n_users: int,
        n_items: int,
        features: Mapping[str, ItemFeatures],
        cache: ArrayCache | None = None,
        progress: bool = False,
        knn_search: str | None = None,
        user_features: UserFeatures | None = None,
    ) -> None:
        if knn_search not in (None, "exact", "approximate"):
            raise UserError(f"knn_search '{knn_search}' is unknown: use exact or approximate")
        self.users = np.asarray(users)
        self.items = np.asarray(items)
        self.n_users = n_users
        self.n_items = n_items
        self._features = dict(features)
        self._cache = cache or ArrayCache(None)
        self._progress = progress
        self._knn_search = knn_search
        self.user_features = user_features
        #: whether features of items that lack a modality were filled in (:mod:`recbole_mambarec.data.imputation`)
        self.is_imputed = False

    @property
    def shows_progress(self) -> bool:
        """Long work shows a progress bar."""
        return self._progress

    def kept(
        self,
        kind: str,
        key: Mapping[str, object],
        build: Callable[[], dict[str, np.ndarray]],
        of_interactions: bool = True,
    ) -> dict[str, np.ndarray]:
        """Arrays made of all features and, unless told otherwise, all training interactions, kept on disk.

        Args:
            kind: what they are.
            key: what else they depend on, the version of the computation included.
            build: computes them.
        """
        data = {"interactions": content_key(*self.pairs)} if of_interactions else {}
        data |= {m: self.content_key(m) for m in self.modalities}
        return self._cache.get(kind, {**key, "data": data}, build)

    @property
    def known_items(self) -> np.ndarray:
        """Which items have training interactions, bool ``(n_items,)``; the others are new."""
        return np.bincount(self.items, minlength=self.n_items) > 0

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in the order in which models use them."""
        return list(self._features)

    def padded_features(self, modality: str) -> ItemFeatures:
        """Features of a modality with the padding row, as they were given."""
        return self._features[modality]

    def with_features(self, features: Mapping[str, ItemFeatures]) -> TrainingData:
        """The same interactions with other features of some modalities."""
        other = copy.copy(self)
        other._features = self._features | dict(features)
        return other

    def features(self, modality: str) -> Rows:
        """Features of the items, float32 ``(n_items, dim)``: an array, or rows that stay on disk."""
        return self._features[modality].items

    def in_memory(self, modality: str) -> bool:
        """Whether the features of the modality are an array, rather than rows that stay on disk."""
        return isinstance(self.features(modality), np.ndarray)

    def present(self, modality: str) -> np.ndarray:
        """Which items have the modality, bool ``(n_items,)``."""
        return self._features[modality].present[1:]

    def content_key(self, modality: str) -> str:
        """Fingerprint of a modality's values and of which items have it."""
        return content_key(self.features(modality), self.present(modality))

    @cached_property
    def bipartite(self) -> SparseGraph:
        """:func:`bipartite_adjacency` of the training interactions."""
        return bipartite_adjacency(self.users, self.items, self.n_users, self.n_items)

    @cached_property
    def user_item(self) -> SparseGraph:
        """:func:`user_item_block` of the training interactions."""
        return self.user_item_weighted("symmetric")

    def user_item_weighted(self, weighting: str) -> SparseGraph:
        """:func:`user_item_block` of the training interactions with another ``weighting``."""
        return user_item_block(self.users, self.items, self.n_users, self.n_items, weighting)

    @cached_property
    def mean_adjacency(self) -> SparseGraph:
        """:func:`mean_adjacency` of the training interactions."""
        return mean_adjacency(self.users, self.items, self.n_users, self.n_items)

    @cached_property
    def mean_with_self(self) -> SparseGraph:
        """:func:`mean_adjacency` in which every node is one of its own neighbours."""
        return mean_adjacency(self.users, self.items, self.n_users, self.n_items, self_loops=True)

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct training interactions as (users, items), sorted by user, then item."""
        matrix = self.history
        matrix.sort_indices()
        return matrix.tocoo().coords

    @property
    def history(self) -> sp.csr_array:
        """Binary float32 matrix of the training interactions, ``(n_users, n_items)``."""
        return interaction_matrix(self.users, self.items, self.n_users, self.n_items)

    def co_users(self, k: int) -> CoOccurrences:
        """For each user, the ``k`` other users with the most training items in common."""
        return co_occurrences(self.history, k)

    def co_items(self, k: int) -> CoOccurrences:
        """For each item, the ``k`` other items with the most training users in common."""
        return co_occurrences(self.history.T.tocsr(), k)

    def pruned_bipartite(self, rate: float, by_degree: bool = True) -> SparseGraph:
        """:func:`bipartite_adjacency` of what a fresh draw of :func:`prune_edges` keeps."""
        users, items = self.pairs
        kept = prune_edges(users, items, self.n_users, self.n_items, rate, by_degree)
        return bipartite_adjacency(users[kept], items[kept], self.n_users, self.n_items)

    def neighbours(self, modality: str, k: int, stand_ins: bool = False) -> Neighbours:
        """Nearest neighbours in a modality's raw features, kept on disk.

        They are searched exactly, or by :func:`approximate_neighbours` beyond :data:`EXACT_ITEMS` items.

        Args:
            modality: the modality.
            k: neighbours per item, itself included.
            stand_ins: items that lack the modality are searched and found with the mean that stands in for it (DGMRec);
                otherwise they have themselves alone as neighbours.
        """
        present = self.present(modality)
        stand_ins = stand_ins and not present.all()
        key = {"content": self.content_key(modality), "k": int(k), "version": NEIGHBOURS_VERSION}
        if self._approximate:
            key["approximate"] = APPROXIMATE_VERSION
        if stand_ins:
            key["stand_ins"] = True

        def build() -> dict[str, np.ndarray]:
            found = self._search(self.features(modality), k, np.ones_like(present) if stand_ins else present)
            return {"indices": found.indices, "cosines": found.cosines}

        return Neighbours(**self._cache.get("neighbours", key, build))

    def neighbours_among(
        self, learnt: Tensor, k: int, modality: str | None = None, stand_ins: bool = False
    ) -> Neighbours:
        """Nearest neighbours among representations that a model learns, ``(n_items, width)``; never kept on disk.

        The search is that of :meth:`neighbours`. An item without any modality, or without the ``modality`` that
        ``learnt`` was made of, only has itself as a neighbour, unless ``stand_ins`` is set.
        """
        present = np.any([self.present(m) for m in ([modality] if modality else self.modalities)], axis=0) | stand_ins
        return self._search(learnt.float().cpu().numpy() if self._approximate else learnt, k, present)

    @property
    def _approximate(self) -> bool:
        how = self._knn_search or ("exact" if self.n_items <= EXACT_ITEMS else "approximate")
        return how == "approximate"

    def _search(self, rows: Rows | Tensor, k: int, present: np.ndarray) -> Neighbours:
        if self._approximate and not isinstance(rows, Tensor):
            return approximate_neighbours(rows, k, present, progress=self._progress)
        if isinstance(rows, (np.ndarray, Tensor)):
            return nearest_neighbours(rows, k, present, progress=self._progress)
        return nearest_neighbours_on_disk(rows, k, present, progress=self._progress)

    def item_graph(self, modality: str, k: int, weighting: str = "cosine", loops: bool = True) -> SparseGraph:
        """:func:`knn_graph` over a modality's raw features; without ``loops``, of k neighbours besides the item."""
        lists = self.neighbours(modality, k) if loops else self.neighbours(modality, k + 1).without_self()
        return knn_graph(lists, weighting)

    def modality_shares(self, image_weight: float, key: str = "mm_image_weight") -> list[float]:
        """Weights of the modalities: ``image`` has ``image_weight``, and the others share the rest equally.

        Without a modality ``image``, all have the same weight; a single modality has weight 1.

        Raises:
            UserError: ``image_weight``, which models call ``key``, is not from 0 to 1.
        """
        check_share(key, image_weight)
        names = self.modalities
        if "image" not in names or len(names) == 1:
            return [1.0 / len(names)] * len(names)
        return [image_weight if name == "image" else (1.0 - image_weight) / (len(names) - 1) for name in names]

    def mixed_item_graph(
        self, k: int, image_weight: float, weighting: str = "uniform", loops: bool = True
    ) -> SparseGraph:
        """Sum of the item graphs, weighted with :meth:`modality_shares`."""
        graphs = [self.item_graph(name, k, weighting, loops) for name in self.modalities]
        return weighted_sum(graphs, self.modality_shares(image_weight))

    def spectrum(self, modality: str) -> np.ndarray:
        """Variances along the principal axes of a modality's features, descending, ``(min(n_items, dim),)``."""

        def build() -> dict[str, np.ndarray]:
            matrix = self.features(modality)
            n_items, dim = matrix.shape
            mean = sum(rows.sum(axis=0, dtype=np.float64) for _, rows in blocks(matrix)) / max(n_items, 1)
            mean = mean.astype(np.float32)
            if n_items >= dim:
                gram = np.zeros((dim, dim), dtype=np.float32)
                for _, rows in blocks(matrix):
                    gram += (rows - mean).T @ (rows - mean)
            else:
                centred = matrix[:] - mean
                gram = centred @ centred.T
            return {"variances": np.clip(np.linalg.eigvalsh(gram)[::-1], 0.0, None) / max(n_items, 1)}

        return self._cache.get("spectrum", {"content": self.content_key(modality), "version": 2}, build)["variances"]
