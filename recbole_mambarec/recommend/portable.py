"""What a trained model ranks by, as arrays: embeddings, weights between items, or neither.

Nothing is assumed: whatever a model seems to rank by is compared with its own scores first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from recbole.config import Config

from recbole_mambarec.models.cold import ColdUsers
from recbole_mambarec.models.item_to_item import Factors as ModelFactors
from recbole_mambarec.models.item_to_item import ItemToItem
from recbole_mambarec.models.multiease import multiease
from recbole_mambarec.models.threeviews import ThreeViews
from recbole_mambarec.recommend.embeddings import embedding_rows, final_embeddings
from recbole_mambarec.recommend.fold_in import fitted
from recbole_mambarec.scoring.fused import FusedScorer
from recbole_mambarec.scoring.scorer import ModelScorer, Reordered, Scorer
from recbole_mambarec_serving.scoring import (
    Dense,
    Factors,
    Fused,
    InnerProducts,
    ItemWeights,
    Listed,
    OfSimilarUsers,
    Scoring,
    WithColdUsers,
)

# users whose scores are compared, and the largest difference that is rounding, as a share of the largest score
_COMPARED, _ROUNDING = 64, 2e-5
# what RecBole's models call a matrix of weights between items
_WEIGHTS = ("item_similarity", "w")


def portable(scorer: Scorer, history: sp.csr_array) -> Scoring | None:
    """The scores of a model without the model; None if it ranks by neither embeddings nor weights between items.

    Args:
        history: training interactions, float32 ``(n_users, n_items)``, in the order of the scorer's users and items.
    """
    if isinstance(scorer, FusedScorer):
        parts = [(part, weight) for part, weight in zip(scorer.parts, scorer.weights) if weight]
        scorings = [portable(part, history) for part, _ in parts]
        if any(scoring is None for scoring in scorings):
            return None
        weights, n_items = [weight for _, weight in parts], history.shape[1]
        fused = Fused([s for s in scorings if s is not None], weights, scorer.normalisation, n_items)
        return fused if is_same(scorer, fused) else None
    if isinstance(scorer, Reordered):
        return _reordered(scorer, history)
    if not isinstance(scorer, ModelScorer):
        return None
    for scoring in _candidates(scorer, history):
        cold = getattr(scorer.model, "_cold_users", None)
        if cold is not None:
            scoring = _with_cold_users(scoring, cold)
        if is_same(scorer, scoring):
            return scoring
    return None


def _with_cold_users(base: Scoring, cold: ColdUsers) -> WithColdUsers:
    which, popularity, rows = (tensor[1:].cpu().numpy() for tensor in (cold.cold, cold.popularity, cold.rows))
    of_similar = None if cold.listed is None else OfSimilarUsers(rows - 1, cold.listed.matrix())
    return WithColdUsers(base, which, popularity, of_similar)


def is_same(scorer: Scorer, scoring: Scoring) -> bool:
    """Whether both give the same scores to a sample of users, but for rounding."""
    users = np.random.default_rng(0).permutation(len(scorer.users))[:_COMPARED]
    wanted, found = scorer.scores(users).double().cpu().numpy(), scoring.scores(users).astype(np.float64)
    if not np.isfinite(wanted).all():
        return False
    return bool((np.abs(wanted - found) <= _ROUNDING * np.abs(wanted).max(axis=1, keepdims=True) + 1e-12).all())


def _candidates(scorer: ModelScorer, history: sp.csr_array) -> Iterator[Scoring]:
    """What the model may rank by."""
    model = scorer.model
    if isinstance(model, ItemToItem):
        yield ItemWeights([_part(each) for each in model.weights(scorer.config)], history)
        return
    if isinstance(model, ThreeViews):
        yield _of_three_views(model, scorer.config, history)
        return
    for users, items in final_embeddings(model):
        if (len(users), len(items)) == history.shape:
            yield InnerProducts(users, items, fitted(users, items, history))
    for name in _WEIGHTS:
        matrix = getattr(model, name, None)
        if getattr(matrix, "shape", None) == (history.shape[1] + 1,) * 2:
            listed = sp.issparse(matrix)
            array = sp.csr_array(matrix) if listed else np.asarray(matrix)
            array = array[1:, 1:].astype(np.float32)
            yield ItemWeights([Listed(sp.csr_array(array)) if listed else Dense(array)], history)


def _of_three_views(model: ThreeViews, config: Config, history: sp.csr_array) -> Fused:
    parts: list[Scoring] = []
    names = []
    for name, tables in model.trained_views().items():
        users, items = (embedding_rows(table) for table in tables)
        parts.append(InnerProducts(users, items, fitted(users, items, history)))
        names.append(name)
    if model.weights["linear"]:
        parts.append(ItemWeights([_part(each) for each in multiease(config, model.data)], history))
        names.append("linear")
    return Fused(parts, [model.weights[name] for name in names], "zscore", history.shape[1])


def _part(weights: np.ndarray | sp.csr_array | ModelFactors) -> Factors | Listed | Dense:
    if isinstance(weights, ModelFactors):
        return Factors(*weights)
    return Listed(sp.csr_array(weights).astype(np.float32)) if sp.issparse(weights) else Dense(weights)


def _reordered(scorer: Reordered, history: sp.csr_array) -> Scoring | None:
    """Of a part of a fusion whose users or items are in another order."""
    rows, columns = np.argsort(scorer.rows), np.argsort(scorer.columns.numpy())
    base = portable(scorer.base, sp.csr_array(history[rows][:, columns]))
    if isinstance(base, WithColdUsers):
        return base.in_order(_in_order(base.base, scorer, history), scorer.rows, scorer.columns.numpy())
    return None if base is None else _in_order(base, scorer, history)


def _in_order(base: Scoring, scorer: Reordered, history: sp.csr_array) -> Scoring:
    rows, columns = scorer.rows, scorer.columns.numpy()
    if isinstance(base, InnerProducts):
        function = base.function._replace(roots=base.function.roots[columns])
        return InnerProducts(base.users[rows], base.items[columns], function)
    assert isinstance(base, ItemWeights)  # a fusion is no part of another one
    return ItemWeights([_columns_in_order(part, columns) for part in base.parts], history)


def _columns_in_order(part: Factors | Listed | Dense, columns: np.ndarray) -> Factors | Listed | Dense:
    if isinstance(part, Factors):
        return Factors(part.source[columns], part.target[columns])
    matrix = part.matrix[columns][:, columns]
    return Listed(sp.csr_array(matrix)) if isinstance(part, Listed) else Dense(matrix)
