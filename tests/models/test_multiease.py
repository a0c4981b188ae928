from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.models import closed_forms
from recbole_mambarec.models.item_to_item import Factors
from recbole_mambarec.models.multiease import multiease
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, model_config, random_dataset
from tests.models.test_itemfeatureknn import (
    ALL_USERS,
    features_of,
    history_of,
    lists_of,
    shares_by_regression,
    with_gaps,
)

K, REG = 4, 3.0
PLAIN = {"user_discount": 0.0, "item_discount": 0.0, "neighbour_weight": 0.0, "spread_weight": 0.0}


def weighted(dataset: InMemoryDataset, discount: float) -> np.ndarray:
    history = history_of(dataset)
    weights = history.sum(axis=1, keepdims=True) ** -discount
    return history * np.sqrt(weights * history.sum() / (weights * history).sum())


def regressions(gram: np.ndarray, target: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """EASE, column by column: the ridge regression of an item on those that are allowed."""
    found = np.zeros_like(gram)
    for j in range(len(gram)):
        others = np.flatnonzero(allowed[:, j])
        system = gram[np.ix_(others, others)] + REG * np.eye(len(others))
        found[others, j] = np.linalg.solve(system, gram[others, j] + REG * target[others, j])
    return found


def features(dataset: InMemoryDataset, history: np.ndarray) -> np.ndarray:
    parts = {}
    for name, known in dataset.item_features.items():
        present = known.present[1:]
        unit = known.items[:] / np.linalg.norm(known.items[:], axis=1, keepdims=True)
        parts[name] = np.where(present[:, None], unit - unit[present].mean(axis=0), 0.0).astype(np.float64)
    shares = shares_by_regression({m: f @ f.T for m, f in parts.items()}, history)
    return np.concatenate([np.sqrt(shares[m]) * parts[m] for m in parts], axis=1)


def neighbour_lists(dataset: InMemoryDataset, history: np.ndarray) -> np.ndarray:
    lists = {m: np.maximum(lists_of(dataset, m, K, 0.0), 0.0) for m in ("image", "text")}
    shares = shares_by_regression(lists, history)
    return sum(shares[m] * lists[m] for m in lists)


def symmetric(lists: np.ndarray) -> np.ndarray:
    both = (lists + lists.T) / 2
    degrees = both.sum(axis=1)
    scale = np.where(degrees > 0, np.maximum(degrees, 1e-12) ** -0.5, 0.0)
    return scale[:, None] * both * scale


def balanced(matrix: np.ndarray, discount: float) -> np.ndarray:
    lengths = np.linalg.norm(matrix, axis=1)
    scaled = matrix / np.where(lengths > 0, lengths, 1.0)[:, None] ** discount
    return scaled / np.linalg.norm(scaled, axis=1).mean()


def reference(dataset: InMemoryDataset, config: dict, k: int | None = None) -> np.ndarray:
    """Scores of all users by the formulas of the docstring."""
    history = weighted(dataset, config["user_discount"])
    x, lists = features(dataset, history), neighbour_lists(dataset, history)
    linear = np.linalg.inv(x @ x.T + config["feature_reg"] * np.eye(20))
    linear = linear / -np.diag(linear)
    np.fill_diagonal(linear, 0)
    gram, target = history.T @ history, np.zeros((20, 20))
    allowed = ~np.eye(20, dtype=bool)
    if k is not None:
        listed = dataset.training_data().co_items(k)
        allowed[:] = False
        allowed[listed.nodes, np.repeat(np.arange(20), np.diff(listed.starts))] = True
    if config["form"] == "collective":
        gram = gram + config["feature_weight"] * x @ x.T
    if config["form"] == "prior":
        target = config["feature_weight"] * linear
    solution = balanced(regressions(gram, target, allowed), config["item_discount"])
    graph = symmetric(lists)
    weights = solution + config["spread_weight"] * (graph @ solution + solution @ graph)
    if k is not None:
        smallest = np.sort(np.where(weights == 0, -np.inf, weights), axis=1)[:, -k, None]
        weights = np.where(weights >= smallest, weights, 0.0)
    weights += config["neighbour_weight"] * balanced(lists, config["item_discount"])
    if config["form"] == "additive":
        weights += config["feature_weight"] * balanced(linear, config["item_discount"])
    np.fill_diagonal(weights, 0)
    return history_of(dataset) @ weights


class TestMultiEASE(ModelContract):
    name = "MultiEASE"
    ranking_loss = "nothing"
    inert: ClassVar = {"placeholder": "nothing is trained"}
    # a few dozen items
    settings: ClassVar = {"reg_weight": 5.0}

    @pytest.mark.parametrize("form", ["additive", "collective", "prior"])
    @pytest.mark.parametrize("own", [PLAIN, {}])
    def test_scores_are_those_of_the_formulas(self, form, own, monkeypatch):
        """Items lack a modality or both; weights are put together in blocks."""
        monkeypatch.setattr(closed_forms, "_BLOCK_VALUES", 49)
        dataset = with_gaps()
        settings = {"form": form, "reg_weight": REG, "n_neighbors": K, "feature_reg": 0.7, "feature_weight": 0.6} | own
        scores = self.build(dataset, **settings).full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]
        np.testing.assert_allclose(
            scores, reference(dataset, model_config(self.name, **settings)), atol=3e-5, rtol=1e-4
        )

    @pytest.mark.parametrize("k", [20, 5])
    def test_the_sparse_solver_predicts_items_from_those_they_share_users_with(self, k, monkeypatch):
        monkeypatch.setattr(closed_forms, "_BLOCK_VALUES", 1000)
        dataset = with_gaps()
        settings = {"reg_weight": REG, "n_neighbors": K, "feature_reg": 0.7, "solver": "sparse", "sparse_k": k}
        scores = self.build(dataset, **settings).full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]
        expected = reference(dataset, model_config(self.name, **settings), k)
        np.testing.assert_allclose(scores, expected, atol=3e-5, rtol=1e-4)

    def test_fewer_components_of_the_features(self):
        """As many as there are columns change nothing; fewer give the best approximation of their products."""
        dataset = with_gaps()
        data = dataset.training_data()
        whole, same, few = (closed_forms.centred_features(data, w, {"image": 1.0}, data.history) for w in (0, 12, 3))
        np.testing.assert_allclose(same @ same.T, whole @ whole.T, atol=1e-9)
        values, vectors = np.linalg.eigh(whole @ whole.T)
        np.testing.assert_allclose(few @ few.T, (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T, atol=1e-9)
        assert few.shape == (20, 3)

    @pytest.mark.parametrize("settings", [{}, {"solver": "sparse"}])
    def test_an_item_without_interactions_is_ranked_by_its_features(self, settings):
        """It is ranked high where it resembles an item of the user's, and low where it is the opposite of one."""
        dataset = random_dataset()
        kept = dataset.items != 19
        users, items = dataset.users[kept], dataset.items[kept]
        others = np.setdiff1d(np.arange(19), items[users == 0])
        ranks = []
        for sign in (1, -1):
            given = features_of(dataset)
            for matrix in given.values():
                matrix[19] = sign * matrix[items[users == 0][0]]
            model = self.build(InMemoryDataset(users, items, 30, 20, given), reg_weight=REG, **settings)
            scores = model.full_sort_predict({"user_id": torch.tensor([1])})[1:]
            ranks.append(int((scores[others] > scores[19]).sum()))
        assert ranks[0] < 5 and ranks[1] > 9

    @pytest.mark.parametrize("settings", [{}, {"solver": "sparse", "sparse_k": 6}])
    def test_the_weights_of_new_items_are_lifted(self, settings):
        """Scores of known items stay; those of new ones are multiplied, so that the columns are of equal length."""
        dataset = with_gaps()
        kept = dataset.items < 18
        dataset = InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features_of(dataset))
        settings = {"reg_weight": REG, "n_neighbors": K, "feature_reg": 0.7} | settings
        models = [self.build(dataset, cold_scale=scale, **settings) for scale in (0.0, 1.0, 0.5)]
        plain, equal, half = (model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:] for model in models)
        torch.testing.assert_close(equal[:, :18], plain[:, :18], rtol=0, atol=0)
        torch.testing.assert_close(half[:, :18], plain[:, :18], rtol=0, atol=0)
        torch.testing.assert_close(half[:, 18:], equal[:, 18:] / 2)
        parts = multiease(model_config(self.name, cold_scale=0.0, **settings), dataset.training_data())
        dense = [part.source @ part.target.T if isinstance(part, Factors) else sp.csr_array(part) for part in parts]
        squares = np.square(np.asarray(sum(dense[1:], dense[0].toarray()))).sum(axis=0)
        factor = np.sqrt(squares[:18].mean() / squares[18:].mean())
        np.testing.assert_allclose(equal[:, 18:], plain[:, 18:] * factor, rtol=1e-4, atol=1e-6)

    def test_new_items_that_nothing_leads_to_keep_their_weights(self):
        data = with_gaps().training_data()
        known = data.items < 18
        data = InMemoryDataset(data.users[known], data.items[known], 30, 20, features_of(with_gaps())).training_data()
        squares = np.append(np.ones(18), np.zeros(2))
        assert (closed_forms.scale_of_new_items(lambda: squares, data, 1.0) == 1).all()

    def test_too_many_items_are_refused_before_anything_is_computed(self):
        with pytest.raises(UserError, match=r"MultiEASE on 20 items would hold 2.2 matrices.*set solver=sparse"):
            self.build(dense_items=19)
        self.build(dense_items=19, solver="sparse")

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"form": "sum"}, "form 'sum' is unknown: use one of additive, collective, prior"),
            ({"solver": "gpu"}, "solver 'gpu' is unknown: use one of dense, sparse"),
            ({"solver": "sparse", "form": "prior"}, "the form additive alone: use solver=dense with form=prior"),
            ({"reg_weight": 0.0}, "reg_weight must be above 0, got 0.0"),
            ({"cold_scale": -1.0}, "cold_scale must not be negative, got -1.0"),
        ],
    )
    def test_settings_that_cannot_be_meant(self, settings, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**settings)


@pytest.mark.parametrize("lengths", [1.0, np.linspace(0.5, 7.0, 20)[:, None]])
def test_a_modality_that_is_the_same_for_all_items_counts_for_nothing(lengths):
    """Its rounding errors are the same for all items and would pass for what makes items popular."""
    # users like items of their own kind, which the image shows
    users, items = (ends.ravel() for ends in np.indices((30, 20)))
    own = (users % 4 == items % 4) & (users % 5 < items)
    image = np.eye(4, dtype=np.float32)[np.arange(20) % 4]
    alike = (lengths * np.random.default_rng(0).normal(size=(1, 384)) * np.ones((20, 1))).astype(np.float32)
    history = closed_forms.weighted_history(
        InMemoryDataset(users[own], items[own], 30, 20, {"image": image}).training_data(), 0.5
    )
    alone, beside = (
        closed_forms.centred_features(
            InMemoryDataset(users[own], items[own], 30, 20, {"image": image} | more).training_data(), 0, None, history
        )
        for more in ({}, {"text": alike})
    )
    np.testing.assert_allclose(beside, alone)
