"""A :class:`~recbole_mambarec_serving.recommender.Recommender` over a trained model itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.errors import UserError
from recbole_mambarec.recommend.catalogue import ModelFeatures, catalogue_of, item_features
from recbole_mambarec.recommend.portable import portable
from recbole_mambarec.recommend.propagation import NotPropagated, user_embeddings
from recbole_mambarec.scoring.restore import Restored, restore
from recbole_mambarec.scoring.splits import Splits
from recbole_mambarec_serving import recommender as serving
from recbole_mambarec_serving.bundle import training_history
from recbole_mambarec_serving.recommender import SEEN_BITS
from recbole_mambarec_serving.scoring import InnerProducts, Scoring, WithColdUsers


class ModelScoring:
    """Scores of known users are the model's own; everything else is computed from what it ranks by.

    New users get embeddings by the propagation of the model itself, if it is one that can be extended so.

    Args:
        run: the model or fusion.
        history: training interactions, float32 ``(n_users, n_items)``.
    """

    depth: int | None = None

    def __init__(self, run: Restored, history: sp.csr_array) -> None:
        self.scorer, self._run, self._history = run.scorer, run, history

    @cached_property
    def parts(self) -> Scoring | None:
        """What the model ranks by; None if that is neither embeddings nor weights between items."""
        return portable(self.scorer, self._history)

    @property
    def _known_parts(self) -> Scoring:
        if self.parts is None:
            raise UserError(
                f"{self.scorer.name} ranks by neither embeddings nor weights between items: it only knows the users "
                "whom it was trained on, and does not compare items"
            )
        return self.parts

    @property
    def kind(self) -> str:
        """See :class:`~recbole_mambarec_serving.scoring.Scoring`."""
        return "scores" if self.parts is None else self.parts.kind

    @property
    def fold_in_by(self) -> str | None:
        """See :class:`~recbole_mambarec_serving.scoring.Scoring`."""
        if self.parts is None:
            return None
        return self.parts.fold_in_by if self.not_propagated else "the propagation of the model over the user's items"

    @property
    def is_exact(self) -> bool:
        """See :class:`~recbole_mambarec_serving.scoring.Scoring`."""
        return self.parts is not None and self.parts.is_exact

    def scores(self, users: np.ndarray) -> np.ndarray:
        """See :meth:`~recbole_mambarec_serving.scoring.Scoring.scores`."""
        return np.array(self.scorer.scores(users).cpu().numpy())

    def fold_in(self, history: sp.csr_array, without: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`~recbole_mambarec_serving.scoring.Scoring.fold_in`.

        Args:
            without: see :func:`~recbole_mambarec.recommend.propagation.user_embeddings`.
        """
        parts = self._known_parts
        if self.not_propagated:
            return parts.fold_in(history)
        products = _products(parts)
        assert products is not None  # or not_propagated says so
        return self._propagated(products, history, without) @ products.items.T

    @cached_property
    def not_propagated(self) -> str | None:
        """Why new users do not get embeddings by propagation, as the end of a sentence; None if they do."""
        products = _products(self.parts)
        if products is None:
            return "it does not rank by embeddings"
        known = np.flatnonzero(np.diff(self._history.indptr) > 0)[:1]
        try:
            self._propagated(products, self._history[known])
        except NotPropagated as reason:
            return str(reason)
        return None

    def _propagated(self, parts: InnerProducts, new: sp.csr_array, without: np.ndarray | None = None) -> np.ndarray:
        run, trained = self._run, (parts.users, parts.items, self._history)
        return user_embeddings(run.model, run.config, run.splits.dataset, *trained, new, without)

    def similar(self, items: np.ndarray) -> np.ndarray:
        """See :meth:`~recbole_mambarec_serving.scoring.Scoring.similar`."""
        return self._known_parts.similar(items)

    def effects(self, history: np.ndarray, item: int, size: int) -> np.ndarray:
        """See :meth:`~recbole_mambarec_serving.scoring.Scoring.effects`."""
        return self._known_parts.effects(history, item, size)


def _products(scoring: Scoring | None) -> InnerProducts | None:
    base = scoring.base if isinstance(scoring, WithColdUsers) else scoring
    return base if isinstance(base, InnerProducts) else None


class Recommender(serving.Recommender):
    """Recommendations from a checkpoint, a fusion or a bundle."""

    @classmethod
    def load(
        cls, path: str | Path, data_path: str | Path | None = None, changed: Mapping[str, object] | None = None
    ) -> serving.Recommender:
        """Load a checkpoint of a general model of this package or of RecBole, a fusion's file, or a bundle.

        Args:
            data_path: the folder that has the dataset's folder; None: where it was when the file was written. A bundle
                needs none.
            changed: other values of :data:`~recbole_mambarec_common.options.SCORING_KEYS` than in the training, e.g.
                ``{"cold_scale": 1.0}``.

        Raises:
            UserError: there is no such file, it is damaged, not trusted or of another kind, or the data have changed;
                a bundle, or a model that does not support it, is to be changed.
        """
        path = Path(path)
        if path.is_dir():
            return serving.Recommender.load(path, changed=changed)
        check_scoring(changed or {})
        return over(restore(path, data_path, changed))


def check_scoring(changed: Mapping[str, object]) -> None:
    """Refuse a key about evaluations alone.

    Raises:
        UserError: there is one.
    """
    if "rank_items" in changed:
        raise UserError("rank_items says what an evaluation ranks: rank some items alone with `among`")


def over(run: Restored) -> serving.Recommender:
    """The recommender over a trained model and its data."""
    splits = run.splits
    features = item_features(splits.dataset)
    seen = seen_of(splits)
    card: dict[str, Any] = {"model": run.scorer.name, "data": {"dataset": str(run.config["dataset"])}}
    return serving.Recommender(
        run.scorer.name,
        ModelScoring(run, training_history(seen)),
        splits.users,
        catalogue_of(splits, features),
        seen,
        ModelFeatures(features) if features else None,
        card,
    )


def seen_of(splits: Splits) -> sp.csr_array:
    """What each user has, with the bits of :data:`~recbole_mambarec_serving.recommender.SEEN_BITS`."""
    seen = sp.csr_array((len(splits.users), len(splits.items)), dtype=np.uint8)
    for part, bit in SEEN_BITS.items():
        seen = seen + splits.interactions(part).astype(bool).astype(np.uint8) * np.uint8(bit)
    seen = sp.csr_array(seen, dtype=np.uint8)
    seen.sort_indices()
    return seen
