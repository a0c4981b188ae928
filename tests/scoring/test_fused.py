"""Scores of several models on a common scale, and their weighted sum."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from recbole_mambarec.errors import UserError
from recbole_mambarec.scoring.fused import NORMALISATIONS, FusedScorer, ranks, zscore
from recbole_mambarec.scoring.scorer import Ids, in_order


@dataclass
class Table:
    """A scorer of fixed scores."""

    name: str
    users: Ids
    items: Ids
    values: np.ndarray

    def scores(self, users):
        return torch.from_numpy(self.values[users])


def table(values, items=None, name="A"):
    values = np.asarray(values, dtype=np.float32)
    tokens = items or [f"i{n}" for n in range(values.shape[1])]
    return Table(name, Ids("user", [f"u{n}" for n in range(len(values))]), Ids("item", tokens), values)


def test_scales_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(5, 9)).astype(np.float64)  # with ties
    scores[3] = 2.0
    deviation = scores.std(axis=1, keepdims=True)
    expected = (scores - scores.mean(axis=1, keepdims=True)) / np.where(deviation == 0, 1, deviation)
    np.testing.assert_allclose(zscore(torch.from_numpy(scores)), expected, atol=1e-12)
    np.testing.assert_allclose(ranks(torch.from_numpy(scores)), 1 / (60 + rankdata(-scores, axis=1)), atol=1e-12)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_sum_is_that_of_a_dense_computation(normalisation):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 6, 11)).astype(np.float32)
    fused = FusedScorer([table(a), table(b * 50 + 7, name="B")], [0.7, 0.3], normalisation)
    scale = NORMALISATIONS[normalisation]
    expected = 0.7 * scale(torch.from_numpy(a).double()) + 0.3 * scale(torch.from_numpy(b * 50 + 7).double())
    users = np.array([4, 0, 5])
    torch.testing.assert_close(fused.scores(users), expected[users])


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_part_alone_keeps_the_order_of_its_scores(normalisation):
    """Even of scores that differ in the last bit of float32, far from zero."""
    values = np.full((1, 5), 1000.0, dtype=np.float32)
    for n in range(1, 5):
        values[0, n] = np.nextafter(values[0, n - 1], np.float32(np.inf))
    found = FusedScorer([table(values[:, ::-1]), table(values)], [0.0, 2.0], normalisation).scores(np.array([0]))
    assert found.argsort(dim=1).tolist() == [[0, 1, 2, 3, 4]] and len(found.unique()) == 5


def test_parts_are_matched_by_raw_ids():
    values = np.arange(12.0).reshape(2, 6)
    straight, turned = table(values), table(values[:, ::-1], items=[f"i{n}" for n in range(5, -1, -1)])
    fused = FusedScorer([straight, turned], [1, 1], "raw")
    np.testing.assert_array_equal(fused.scores(np.array([1, 0])), 2 * values[[1, 0]])
    assert in_order(straight, straight.users, straight.items) is straight
    with pytest.raises(UserError, match=r"B knows other items \(6\) than the model beside it \(6\)"):
        FusedScorer([straight, table(values, items=list("abcdef"), name="B")], [1, 1])


def test_minus_infinity_counts_as_the_lowest_score():
    values = np.array([[3.0, -np.inf, 1.0], [-np.inf] * 3])
    fused = FusedScorer([table(values), table(np.zeros((2, 3)))], [1, 0], "raw")
    np.testing.assert_array_equal(fused.scores(np.array([0, 1])), [[3, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0, 0], "all weights are zero"),
        ([1], "there are 2 models to fuse, and 1 weights"),
        ([1, -0.5], "a weight must be a number from 0, got -0.5"),
        ([1, float("nan")], "a weight must be a number from 0, got nan"),
    ],
)
def test_refused_weights(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        FusedScorer([table([[1.0, 2.0]]), table([[1.0, 2.0]])], weights)


def test_scores_that_are_no_numbers_are_refused():
    fused = FusedScorer([table([[1.0, 2.0]]), table([[1.0, np.nan]], name="Broken")], [1, 1])
    with pytest.raises(UserError, match="Broken gives scores that are no numbers"):
        fused.scores(np.array([0]))


def test_unknown_ids_are_named():
    ids = Ids("item", ["a", "b"])
    assert ids.positions(["b", "a", "b"]).tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="item 'c' is not in the data that the model was trained on: it knows 2 items"):
        ids.positions(["a", "c"])
