from typing import ClassVar

import numpy as np
import pytest
import torch
from recbole.utils import get_model

from recbole_mambarec.errors import UserError
from recbole_mambarec.models import itemknncbf
from recbole_mambarec.models.item_to_item import Factors
from recbole_mambarec.models.modality_shares import modality_shares
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, model_config, random_dataset

ALL_USERS = {"user_id": torch.arange(1, 31)}


def with_gaps(on_disk=False) -> InMemoryDataset:
    """Random data in which two items lack the image and two the text, one of them both."""
    full = random_dataset()
    image, text = (full.item_features[m].items.copy() for m in ("image", "text"))
    image[[2, 5]], text[[5, 9]] = np.nan, np.nan
    return InMemoryDataset(full.users, full.items, 30, 20, {"image": image, "text": 100 * text}, on_disk)


def history_of(dataset: InMemoryDataset) -> np.ndarray:
    history = np.zeros((dataset.n_users, dataset.n_items))
    history[dataset.users, dataset.items] = 1
    return history


def lists_of(dataset: InMemoryDataset, modality: str, k: int, shrink: float) -> np.ndarray:
    """S of a modality by its definition."""
    known = dataset.item_features[modality]
    features = known.items[:].astype(np.float64) * known.present[1:, None]
    norms = np.linalg.norm(features, axis=1)
    similarities = features @ features.T / np.maximum(np.outer(norms, norms) + shrink, 1e-30)
    np.fill_diagonal(similarities, -np.inf)
    smallest = np.sort(similarities, axis=1)[:, -k, None]
    np.fill_diagonal(similarities, 0)
    return np.where(similarities >= smallest, similarities, 0)


def shares_by_regression(matrices: dict[str, np.ndarray], history: np.ndarray) -> dict[str, float]:
    """Shares of modalities from the regressions of joint users on similarities, one pair of items at a time."""
    other = ~np.eye(history.shape[1], dtype=bool)
    joint = (history.T @ history)[other]
    found = {}
    for name, matrix in matrices.items():
        x = matrix[other]
        slope = x @ joint / (x @ x)
        found[name] = slope**2 * (x @ x) if slope > 0 else 0.0
    total = sum(found.values())
    if total == 0:  # equal shares, where similar items have fewer users in common
        return dict.fromkeys(matrices, 1 / len(matrices))
    return {name: value / total for name, value in found.items()}


class TestItemFeatureKNN(ModelContract):
    name = "ItemFeatureKNN"
    ranking_loss = "nothing"
    inert: ClassVar = {"placeholder": "nothing is trained"}

    @pytest.mark.parametrize(("on_disk", "shrink"), [(False, 0.0), (True, 10.0)])
    def test_scores_are_sums_over_lists_of_each_modality(self, monkeypatch, on_disk, shrink):
        """Also where features are searched in blocks, and items lack a modality or both."""
        monkeypatch.setattr(itemknncbf, "_BLOCK_VALUES", 49)
        dataset = with_gaps(on_disk)
        history = history_of(dataset)
        lists = {m: lists_of(dataset, m, 4, shrink) for m in ("image", "text")}
        for weights, shares in (
            (None, shares_by_regression(lists, history)),
            ({"text": 3, "image": 1}, {"text": 0.75, "image": 0.25}),
            ({"text": 0.1}, {"text": 1.0, "image": 0.0}),
        ):
            model = self.build(dataset, shrink=shrink, modality_weights=weights)
            scores = model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]
            expected = history @ sum(shares[m] * lists[m] for m in lists)
            np.testing.assert_allclose(scores, expected, atol=1e-6)
            # items without a training interaction are ranked by their features
            model = self.build(InMemoryDataset([0, 1], [0, 1], 2, 20, features_of(dataset)), modality_weights=weights)
            assert (model.full_sort_predict({"user_id": torch.tensor([1])})[3:] > 0).any()

    def test_more_neighbours_than_items(self):
        dataset = with_gaps()
        model = self.build(dataset, n_neighbors=50, shrink=0.0, modality_weights={"text": 1.0})
        scores = model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]
        np.testing.assert_allclose(scores, history_of(dataset) @ lists_of(dataset, "text", 19, 0.0), atol=1e-6)

    @pytest.mark.parametrize(
        ("weights", "sentence"),
        [
            ("text", "must map modalities to weights, e.g. {'image': 1.0}, got 'text'"),
            ({"txt": 1.0}, "names 'txt', which is no modality of this run: image, text"),
            ({"text": -1.0}, "text must be a number from 0, got -1.0"),
            ({"text": 0.0}, "leaves no modality: give one of image, text a weight"),
        ],
    )
    def test_weights_of_modalities_that_cannot_be_meant(self, weights, sentence):
        with pytest.raises(UserError, match=f"modality_weights.*{sentence}"):
            self.build(modality_weights=weights)


def features_of(dataset: InMemoryDataset) -> dict[str, np.ndarray]:
    return {m: np.where(f.present[1:, None], f.items[:], np.nan) for m, f in dataset.item_features.items()}


def test_shares_of_factors_are_those_of_their_product():
    dataset = random_dataset()
    rng = np.random.default_rng(3)
    factors = {
        m: Factors(*(rng.normal(size=(20, w)).astype(np.float32) + 0.3 for _ in "ab")) for m, w in (("x", 3), ("y", 5))
    }
    dense = {m: f.source.astype(np.float64) @ f.target.T for m, f in factors.items()}
    expected = shares_by_regression(dense, history_of(dataset))
    assert modality_shares(None, factors, dataset.training_data().history) == pytest.approx(expected, rel=1e-5)


def test_similarities_that_explain_nothing_count_alike():
    dataset = random_dataset()
    nothing = {m: Factors(np.zeros((20, 2), np.float32), np.zeros((20, 2), np.float32)) for m in ("x", "y")}
    assert modality_shares(None, nothing, dataset.training_data().history) == {"x": 0.5, "y": 0.5}


@pytest.mark.parametrize("model", ["ItemFeatureKNN", "ItemKNNCBF"])
def test_items_of_which_no_two_resemble_each_other_have_scores_of_0(model):
    data = random_dataset()
    nothing = {m: np.zeros((20, 3), dtype=np.float32) for m in ("image", "text")}
    dataset = InMemoryDataset(data.users, data.items, 30, 20, nothing)
    made = get_model(model)(model_config(model, embedding_size=8), dataset)
    scores = made.full_sort_predict(ALL_USERS).view(30, 21)
    assert (scores[:, 1:] == 0).all()
    pairs = {"user_id": torch.tensor([1, 30]), "item_id": torch.tensor([20, 1])}
    assert (made.predict(pairs) == 0).all()
