"""Rows for items that lack a modality: each method against a plain reading of what it promises."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_mambarec.data import imputation
from recbole_mambarec.data.cache import ArrayCache
from recbole_mambarec.data.imputation import METHODS, accept, from_interactions, from_neighbours, imputed, propagated
from recbole_mambarec.data.rows import ItemRows
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.data import random_dataset


@st.composite
def catalogues(draw):
    """Features of three modalities, which items have them, and interactions, all small."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_users, n_items = draw(st.integers(1, 8)), draw(st.integers(2, 12))
    matrix = (rng.random((n_users, n_items)) < draw(st.sampled_from([0.1, 0.3, 0.6]))).astype(float)
    features = {m: rng.normal(size=(n_items, d)).astype(np.float32) for m, d in (("a", 4), ("b", 3), ("c", 2))}
    present = {m: rng.random(n_items) < draw(st.sampled_from([0.3, 0.7])) for m in features}
    features = {m: np.where(present[m][:, None], x, 7.0).astype(np.float32) for m, x in features.items()}
    return sp.csr_array(matrix), features, present


@given(catalogues(), st.integers(1, 4))
@settings(max_examples=60)
def test_neighbours_are_those_most_similar_in_what_both_have(catalogue, k):
    _, features, present = catalogue
    found = from_neighbours(features, present, "a", ["b", "c"], k)
    shared = sum(np.outer(present[m], present[m]).astype(int) for m in ("b", "c"))
    donors_of = [np.flatnonzero(present["a"] & (shared[item] > 0)) for item in range(len(shared))]
    wanted = [item for item, donors in enumerate(donors_of) if not present["a"][item] and len(donors)]
    assert found.items.tolist() == wanted
    unit = {m: x / np.linalg.norm(x, axis=1, keepdims=True) * present[m][:, None] for m, x in features.items()}
    for item, row in zip(found.items, found.rows):
        donors = donors_of[item]
        similarity = unit["b"][donors] @ unit["b"][item] + unit["c"][donors] @ unit["c"][item]
        nearest = np.sort(similarity)[::-1][: min(k, len(donors))]
        if len(donors) > k and np.isclose(similarity, nearest[-1]).sum() > 1:
            continue  # a tie
        chosen = donors[similarity >= nearest[-1] - 1e-6]
        np.testing.assert_allclose(row, features["a"][chosen].mean(axis=0), atol=1e-5)


@given(catalogues(), st.integers(1, 4))
@settings(max_examples=60)
def test_items_with_common_users_give_their_mean(catalogue, k):
    matrix, features, present = catalogue
    found = from_interactions(matrix, features["a"], present["a"], k)
    dense = matrix.toarray()
    popularity = dense.sum(axis=0)
    shared = dense.T @ dense
    has_donor = ((shared > 0) & present["a"]).any(axis=1)
    assert found.items.tolist() == np.flatnonzero(~present["a"] & has_donor).tolist()
    for item, row in zip(found.items, found.rows):
        cosine = np.divide(shared[item], np.sqrt(popularity), where=popularity > 0, out=np.zeros(len(popularity)))
        cosine[~present["a"]] = 0.0
        order = np.lexsort((np.arange(len(cosine)), -cosine.round(9)))
        chosen = [other for other in order if cosine[other] > 0][:k]
        if len(chosen) == k and np.isclose(cosine, cosine[chosen[-1]]).sum() > 1:
            continue  # a tie, which rounding may break
        np.testing.assert_allclose(row, features["a"][chosen].mean(axis=0), atol=1e-5)


@given(catalogues())
@settings(max_examples=60)
def test_propagation_settles_at_the_mean_of_the_items_that_share_users(catalogue):
    matrix, features, present = catalogue
    found = propagated(matrix, features["a"], present["a"])
    shared = (matrix.T @ matrix).toarray()
    np.fill_diagonal(shared, 0.0)
    reached = present["a"].copy()
    for _ in range(len(reached)):
        reached |= shared[:, reached].any(axis=1)
    assert found.items.tolist() == np.flatnonzero(reached & ~present["a"]).tolist()
    rows = features["a"].astype(float)
    rows[found.items] = found.rows
    known = rows[present["a"]]
    for item in found.items:
        weights = np.where(reached, shared[item], 0.0)
        np.testing.assert_allclose(weights @ rows / weights.sum(), rows[item], atol=2e-4)
        assert (rows[item] >= known.min(axis=0) - 1e-4).all() and (rows[item] <= known.max(axis=0) + 1e-4).all()


@pytest.mark.parametrize("find", ["neighbours", "propagate", "knn-interactions"])
def test_blocks_and_rows_on_disk_change_nothing(monkeypatch, find):
    data = [incomplete(on_disk=on_disk) for on_disk in (False, True)]
    whole = imputed(data[0], find, 3)
    monkeypatch.setattr(imputation, "_BLOCK_VALUES", 25)
    for given_data in data:
        found = imputed(given_data, find, 3)
        for m in found.modalities:
            np.testing.assert_allclose(found.features(m)[:], whole.features(m)[:], atol=1e-5)
            np.testing.assert_array_equal(found.present(m), whole.present(m))
        assert isinstance(found.features("image"), np.ndarray if given_data is data[0] else ItemRows)


def incomplete(on_disk: bool = False, **settings) -> TrainingData:
    """30 users, 20 items: 3 lack the image, 3 the text, 1 both; one of them has no interaction."""
    dataset = random_dataset()
    features = {m: f.items.copy() for m, f in dataset.item_features.items()}
    features["image"][[0, 1, 2, 9]] = np.nan
    features["text"][[3, 4, 5, 9]] = np.nan
    kept = dataset.items != 9
    made = type(dataset)(dataset.users[kept], dataset.items[kept], 30, 20, features, on_disk)
    return TrainingData(made.users, made.items, 30, 20, made.item_features, **settings)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_what_a_model_sees(method):
    before = incomplete()
    data = imputed(before, method, 3)
    for m, absent in (("image", [0, 1, 2]), ("text", [3, 4, 5])):
        rows, mean = data.features(m), before.features(m)[9]
        assert np.isfinite(rows).all()
        np.testing.assert_array_equal(rows[10:], before.features(m)[10:])
        # nothing is known of an item without modality and interaction
        np.testing.assert_array_equal(rows[9], np.zeros_like(mean) if method == "zero" else mean)
        assert not data.present(m)[9] and data.present(m)[10:].all()
        joins = method in ("neighbours", "propagate", "knn-interactions")
        assert (data.present(m)[absent] == joins).all()
        assert joins == (not np.allclose(rows[absent], rows[9]))
        cosines = data.neighbours(m, 5).cosines
        assert np.isfinite(cosines).all()
        assert ((data.neighbours(m, 5).indices[absent] >= 0).sum(axis=1) == (5 if joins else 1)).all()


def test_only_training_interactions_count():
    """Without the interactions of an item, nothing is taken from it or given to it."""
    data = incomplete()
    few = TrainingData(data.users[data.items > 2], data.items[data.items > 2], 30, 20, data._features)
    for method in ("propagate", "knn-interactions"):
        assert imputed(data, method, 3).present("image")[:3].all()
        assert not imputed(few, method, 3).present("image")[:3].any()


def test_what_was_found_is_kept_under_all_that_it_depends_on(tmp_path, monkeypatch):
    def files():
        return len(list(tmp_path.glob("imputation-*")))

    data = incomplete(cache=ArrayCache(tmp_path))
    first = imputed(data, "knn-interactions", 3)
    assert files() == 2
    monkeypatch.setitem(imputation._METHODS, "knn-interactions", None)  # not called again
    np.testing.assert_array_equal(imputed(data, "knn-interactions", 3).features("image"), first.features("image"))
    assert files() == 2
    monkeypatch.undo()
    imputed(data, "knn-interactions", 4)
    assert files() == 4
    fewer = TrainingData(data.users[1:], data.items[1:], 30, 20, data._features, cache=ArrayCache(tmp_path))
    imputed(fewer, "knn-interactions", 3)
    assert files() == 6


def test_complete_data_are_left_alone():
    data = random_dataset().training_data()
    assert imputed(data, "propagate", 3) is data


def test_what_is_recorded_of_the_key():
    assert [accept(value, "BPR", False) for value in (None, "mean", "drop", "zero")] == [None, None, None, "zero"]
    assert [accept(value, "DGMRec", True) for value in (None, "learned", "drop")] == [None, None, "mean"]
    with pytest.raises(UserError, match="VBPR does not generate missing features"):
        accept("learned", "VBPR", False)


def test_memory_of_propagation_is_linear(monkeypatch):
    """The product R^T R of one user with everything would have n_items^2 entries."""
    import tracemalloc

    n = 3000
    matrix = sp.csr_array(np.ones((1, n)))
    features, present = np.ones((n, 2), np.float32), np.arange(n) % 2 == 0
    tracemalloc.start()
    found = propagated(matrix, features, present)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.items) == n // 2 and np.allclose(found.rows, 1.0, atol=1e-3)
    assert peak < n * n * 8 / 8 and math.isfinite(peak)
