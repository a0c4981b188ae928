"""The approximate search of item neighbours against the exact one."""

import sys

import numpy as np
import pytest

from recbole_mambarec.data import training
from recbole_mambarec.data.graphs.approximate import approximate_neighbours
from recbole_mambarec.data.graphs.neighbours import nearest_neighbours
from recbole_mambarec.data.rows import ItemRows
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.data import random_dataset


def grouped(n=1500, dim=20, groups=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, dim))
    return (centres[rng.integers(0, groups, n)] + 0.4 * rng.normal(size=(n, dim))).astype(np.float32)


def recall(found, exact):
    """Share of the exact neighbours, without the item itself, that were found."""
    pairs = [(set(a[1:]), set(b[1:]) - {-1}) for a, b in zip(found.indices, exact.indices)]
    return sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def test_without_faiss_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install \"recbole-mambarec\[ann\]\", or set knn_search=exact"):
        approximate_neighbours(grouped(20), 3)


class TestWithFaiss:
    @pytest.fixture(autouse=True)
    def _faiss(self):
        pytest.importorskip("faiss")

    @pytest.mark.parametrize("on_disk", [False, True])
    def test_most_neighbours_are_found_with_their_true_cosines(self, on_disk):
        features = grouped()
        rows = ItemRows(features, np.arange(len(features)), features[0]) if on_disk else features
        found, exact = approximate_neighbours(rows, 10), nearest_neighbours(features, 10)
        assert recall(found, exact) > 0.95
        assert found.indices[:, 0].tolist() == list(range(len(features))) and (found.cosines[:, 0] == 1).all()
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        true = (unit[:, None, :] * unit[found.indices]).sum(axis=2)
        np.testing.assert_allclose(found.cosines, true, atol=1e-5)
        assert (np.diff(found.cosines[:, 1:], axis=1) <= 1e-6).all()
        assert all(len(set(row)) == 10 for row in found.indices)

    def test_few_items_are_searched_exactly(self):
        features = grouped(30)
        found, exact = approximate_neighbours(features, 5), nearest_neighbours(features, 5)
        np.testing.assert_array_equal(found.indices, exact.indices)

    def test_items_without_the_modality_are_linked_to_themselves_alone(self):
        features = grouped(200)
        present = np.random.default_rng(1).random(200) < 0.7
        found, exact = (search(features, 6, present) for search in (approximate_neighbours, nearest_neighbours))
        for item in np.flatnonzero(~present):
            assert found.indices[item].tolist() == [item, -1, -1, -1, -1, -1]
        assert recall(found, exact) > 0.95
        assert not np.isin(found.indices[present], np.flatnonzero(~present)).any()

    @pytest.mark.parametrize(("n", "k"), [(1, 3), (4, 9), (5, 1)])
    def test_small_catalogues_and_lists(self, n, k):
        features = grouped(n)
        found, exact = approximate_neighbours(features, k), nearest_neighbours(features, k)
        np.testing.assert_array_equal(found.indices, exact.indices)
        np.testing.assert_allclose(found.cosines, exact.cosines, atol=1e-6)

    def test_nothing_but_absent_items(self):
        found = approximate_neighbours(grouped(4), 2, np.array([False, False, True, False]))
        assert found.indices.tolist() == [[0, -1], [1, -1], [2, -1], [3, -1]]

    def test_it_is_used_beyond_the_documented_size_or_on_request(self, monkeypatch):
        called = []
        for name in ("approximate_neighbours", "nearest_neighbours"):
            search = getattr(training, name)
            spy = lambda *a, name=name, search=search, **k: (called.append(name), search(*a, **k))[1]  # noqa: E731
            monkeypatch.setattr(training, name, spy)

        def searched(**settings):
            called.clear()
            base = random_dataset(n_items=20)
            data = TrainingData(base.users, base.items, base.n_users, 20, base.item_features, **settings)
            data.neighbours("image", 3)
            return called[0]

        assert searched() == searched(knn_search="exact") == "nearest_neighbours"
        assert searched(knn_search="approximate") == "approximate_neighbours"
        monkeypatch.setattr(training, "EXACT_ITEMS", 19)
        assert searched() == "approximate_neighbours"
        assert searched(knn_search="exact") == "nearest_neighbours"


def test_an_unknown_search_is_refused():
    with pytest.raises(UserError, match="knn_search 'fast' is unknown: use exact or approximate"):
        TrainingData([0], [0], 1, 1, {}, knn_search="fast")
