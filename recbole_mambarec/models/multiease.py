"""MultiEASE: the linear model EASE with the features of several modalities; nothing is trained by gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.closed_forms import (
    SOLVERS,
    LinearFeatures,
    balanced,
    balanced_features,
    centred_features,
    ease,
    largest_of_rows,
    linear_features,
    memory_of_matrices,
    neighbour_lists,
    row_blocks,
    scale_of_new_items,
    sparse_ease,
    squared_columns,
    symmetric_graph,
    weighted_history,
)
from recbole_mambarec.models.item_to_item import Factors, ItemToItem, Weights, memory_of_lists
from recbole_mambarec.value_checks import check_choice

FORMS = ("additive", "collective", "prior")
# float64 matrices of all pairs of items at the peak: the system, its factor and inverse, what weights are drawn to
_MATRICES = {"additive": 2.2, "collective": 2.2, "prior": 5.2}


class MultiEASE(ItemToItem):
    """EASE (Steck, WWW 2019, arXiv 1905.03375) with item features, in the published closed forms and in our own
    combination of them.

    A linear model: an item of the user adds its row of weights to the scores of all items. The weights are solutions of
    ridge regressions on interactions and on features, in closed form, so that nothing is trained by gradients. Similar
    items lend each other their weights.

    Score, with Y the interactions, in which a user with n of them weighs ``n^-user_discount``, F the features (unit
    rows of each modality, less their mean, side by side), and zero diagonals in B and L::

        B minimises |Y - Y B|^2 + reg_weight |B|^2;   L minimises |F^T - F^T L|^2 + feature_reg |L|^2
        W = B + spread_weight (T B + B T) + neighbour_weight K + feature_weight L,   B, K, L balanced
        s(u, i) = (R W)_ui

    That is the default, ``form: additive`` (Add-EASE in "Closed-Form Models for Collaborative Filtering with
    Side-Information", Jeunen et al., RecSys 2020), with our own additions. In the other forms, L is no part of W, and
    features enter B:

    * ``collective``: the columns of F are further users, each of weight ``feature_weight`` (CEASE, there).
    * ``prior``: B minimises ``|Y - Y B|^2 + reg_weight |B - feature_weight L|^2`` (L3AE, CIKM 2025, arXiv 2508.13500;
      FEASE, arXiv 2504.02288, with another L).

    Our own additions are independent of the form, and 0 switches each off. Balancing divides a row, which is what an
    item of the user says, by its length to the power ``item_discount``, so that popular items do not decide alone, and
    gives rows a mean length of 1. K has the cosines of each item's ``n_neighbors`` nearest by features, and T is the
    symmetric graph of them, which lets an item speak for its neighbours and gives them a part of what it gets.
    Modalities count as ``modality_weights`` says or, by default, as much as each explains of which items are used
    together.

    Items without a training interaction get their scores from L, from K and from the neighbours that B T reaches. As
    these are small, ``cold_scale`` lifts them: the columns of such items become that many times as long as those of the
    others.

    ``solver: dense`` holds matrices of all pairs of items and takes time with the cube of the items. ``sparse``
    predicts an item from the ``sparse_k`` items it shares most users with, keeps as many of the largest entries of ``B
    + spread_weight (T B + B T)`` in each row, and L as factors; it has the form ``additive`` alone.
    """

    cold_scale_of = "weights"

    def weights(self, config) -> Sequence[Weights]:
        """:func:`multiease`."""
        return multiease(config, self.data)

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """That of the matrices of all pairs of items or, with ``solver: sparse``, of the listed scores and the factors.

        Raises:
            UserError: there are more than ``dense_items`` items, and the solver is not sparse.
        """
        return memory_of_multiease(cls.__name__, config, data)


def memory_of_multiease(model: str, config, data: TrainingData) -> StepMemory:
    """What :meth:`MultiEASE.memory_of` says, for the model of that name, which holds W."""
    if config["solver"] == "sparse":
        return memory_of_lists(config, config["sparse_k"] + config["n_neighbors"] * len(data.modalities))
    return memory_of_matrices(model, config, data, _MATRICES[check_choice("form", config["form"], FORMS)])


def multiease(config, data: TrainingData) -> Sequence[Weights]:
    """W of :class:`MultiEASE` under its keys: a dense matrix, or a sparse one and factors.

    Raises:
        UserError: a key has a value that it cannot have.
    """
    form, solver = check_choice("form", config["form"], FORMS), check_choice("solver", config["solver"], SOLVERS)
    if solver == "sparse" and form != "additive":
        raise UserError(f"solver=sparse has the form additive alone: use solver=dense with form={form}")
    if not config["reg_weight"] > 0:
        raise UserError(f"reg_weight must be above 0, got {config['reg_weight']}: the solution would not be unique")
    given = config["modality_weights"]
    history = weighted_history(data, config["user_discount"])
    features = centred_features(data, config["feature_width"], given, history)
    lists = neighbour_lists(data, config["n_neighbors"], given, history)
    linear = balanced_features(linear_features(features, config["feature_reg"]), config["item_discount"])
    if solver == "sparse":
        kept, factors = _sparse(config, data, history, lists, linear)
        scale = scale_of_new_items(lambda: squared_columns(kept, factors), data, config["cold_scale"])
        scale = scale.astype(np.float32)
        return [sp.csr_array(kept @ sp.diags_array(scale)), Factors(factors.source, factors.target * scale[:, None])]
    weights = _dense(config, _solution(config, history, features), lists, linear)
    weights *= scale_of_new_items(lambda: np.einsum("ij,ij->j", weights, weights), data, config["cold_scale"])
    return [weights]


def _solution(config, history: sp.csr_array, features: np.ndarray) -> np.ndarray:
    """B of the configured form, float32 ``(n_items, n_items)``."""
    reg, weight = config["reg_weight"], config["feature_weight"]
    gram, target = (history.T @ history).toarray(), None
    if config["form"] == "collective":
        gram += weight * (features @ features.T)
    if config["form"] == "prior":
        source, other = linear_features(features, config["feature_reg"]).factors
        target = weight * (source @ other.T)
        np.fill_diagonal(target, 0.0)
    return ease(gram, reg, target, config["device"])


def _dense(config, solution: np.ndarray, lists: sp.csr_array, linear: LinearFeatures) -> np.ndarray:
    """W, float32 ``(n_items, n_items)``."""
    solution = balanced(solution, config["item_discount"])
    own = (config["neighbour_weight"] * balanced(lists, config["item_discount"])).tocsr()
    graph, spread = symmetric_graph(lists), config["spread_weight"]
    source, target = (part.astype(np.float32) for part in linear.factors)
    weights = solution.copy()
    for rows in row_blocks(len(weights)):
        weights[rows] += own[rows].toarray()
        if spread:
            weights[rows] += spread * (graph[rows] @ solution + solution[rows] @ graph)
        if config["form"] == "additive":
            weights[rows] += config["feature_weight"] * (source[rows] @ target.T)
    np.fill_diagonal(weights, 0.0)
    return weights


def _sparse(
    config, data: TrainingData, history: sp.csr_array, lists: sp.csr_array, linear: LinearFeatures
) -> tuple[sp.csr_array, Factors]:
    """W as a sparse matrix and factors."""
    k, spread, n_items = config["sparse_k"], config["spread_weight"], data.n_items
    candidates = data.co_items(k)
    predictors = sp.csr_array(
        (np.ones(len(candidates.nodes)), candidates.nodes, candidates.starts), shape=(n_items, n_items)
    )
    solution = balanced(sparse_ease(history, predictors, config["reg_weight"]), config["item_discount"])
    graph = symmetric_graph(lists)
    rows = (solution[r] + spread * (graph[r] @ solution + solution[r] @ graph) for r in row_blocks(n_items))
    kept = largest_of_rows(rows, k)
    kept += config["neighbour_weight"] * balanced(lists, config["item_discount"])
    diagonal = kept.diagonal() + config["feature_weight"] * linear.own
    source, target = linear.factors
    factors = Factors((config["feature_weight"] * source).astype(np.float32), target.astype(np.float32))
    return sp.csr_array(kept - sp.diags_array(diagonal.astype(np.float32))), factors
