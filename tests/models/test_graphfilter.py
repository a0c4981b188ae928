from typing import ClassVar

import numpy as np
import pytest
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.models import closed_forms
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset
from tests.models.test_itemfeatureknn import ALL_USERS, features_of, history_of, with_gaps
from tests.models.test_multiease import K, neighbour_lists, symmetric


def reference(dataset: InMemoryDataset, coefficients: list[float], k: int = 20) -> np.ndarray:
    """Scores of all users by the formula of the docstring, with a share of 0.4, and exponents 0.2 and 0.6."""
    history = history_of(dataset)
    users, items = history.sum(axis=1), history.sum(axis=0)
    normalised = history / np.sqrt(np.outer(users, np.maximum(items, 1)))
    graph = 0.6 * normalised.T @ normalised + 0.4 * symmetric(neighbour_lists(dataset, history))
    weights = sum(c * np.linalg.matrix_power(graph, n) for n, c in enumerate(coefficients, 1))
    counts = np.maximum(items, 1)
    weights = counts[:, None] ** -0.2 * weights * counts**0.6
    smallest = np.sort(weights, axis=1)[:, -k, None]
    return history @ np.where(weights >= smallest, weights, 0)


class TestGraphFilter(ModelContract):
    name = "GraphFilter"
    ranking_loss = "nothing"
    inert: ClassVar = {"placeholder": "nothing is trained"}

    @pytest.mark.parametrize(
        ("coefficients", "solver", "k"),
        [([1.0], "dense", 20), ([0.0, 1.0], "sparse", 20), ([0.5, 1.0, 0.3], "dense", 20), ([0.0, 1.0], "sparse", 6)],
    )
    @pytest.mark.parametrize("sparse_cost", [0, 1e9])
    def test_scores_are_those_of_the_formula(self, coefficients, solver, k, sparse_cost, monkeypatch):
        """Items lack a modality or both; the filter is computed in blocks, from a sparse and from a dense graph."""
        monkeypatch.setattr(closed_forms, "_BLOCK_VALUES", 49)
        monkeypatch.setattr(closed_forms, "_SPARSE_COST", sparse_cost)
        dataset = with_gaps()
        exponents = {"feature_share": 0.4, "history_discount": 0.2, "popularity": 0.6}
        model = self.build(dataset, filter=coefficients, solver=solver, sparse_k=k, n_neighbors=K, **exponents)
        scores = model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]
        np.testing.assert_allclose(scores, reference(dataset, coefficients, k), atol=1e-5, rtol=1e-4)

    def test_an_item_without_interactions_is_reached_over_its_features(self):
        dataset = with_gaps()
        kept = dataset.items != 19
        model = self.build(InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features_of(dataset)))
        scores = model.full_sort_predict(ALL_USERS).view(30, 21)
        assert (scores[:, 20] > 0).any()
        alone = self.build(
            InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features_of(dataset)), feature_share=0.0
        )
        assert (alone.full_sort_predict(ALL_USERS).view(30, 21)[:, 20] == 0).all()

    @pytest.mark.parametrize("solver", ["dense", "sparse"])
    def test_the_weights_of_new_items_are_lifted(self, solver):
        """Their columns become as long as the others, of which they would else be behind."""
        dataset = with_gaps()
        kept = dataset.items != 19
        dataset = InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features_of(dataset))
        models = [self.build(dataset, solver=solver, sparse_k=20, cold_scale=scale) for scale in (0.0, 1.0)]
        plain, lifted = (model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:] for model in models)
        torch.testing.assert_close(lifted[:, :19], plain[:, :19])
        factor = (lifted[:, 19].sum() / plain[:, 19].sum()).item()
        torch.testing.assert_close(lifted[:, 19], factor * plain[:, 19])
        weights = self.build(dataset, cold_scale=0.0).summands[0].table[1:, 1:].numpy()
        lengths = np.linalg.norm(weights, axis=0)
        assert factor == pytest.approx(np.sqrt(np.square(lengths[:19]).mean()) / lengths[19], rel=1e-4)

    def test_too_many_items_are_refused(self):
        with pytest.raises(UserError, match=r"GraphFilter on 20 items would hold 1 matrices.*set solver=sparse"):
            self.build(dense_items=19)

    @pytest.mark.parametrize("settings", [{"feature_share": 1.5}, {"solver": "fast"}])
    def test_settings_that_cannot_be_meant(self, settings):
        with pytest.raises(UserError, match=f"{next(iter(settings))}"):
            self.build(**settings)

    def test_pairs_of_one_user(self):
        model = self.build(with_gaps())
        pairs = {"user_id": torch.full((20,), 4), "item_id": torch.arange(1, 21)}
        torch.testing.assert_close(model.predict(pairs), model.full_sort_predict({"user_id": torch.tensor([4])})[1:])
