import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_mambarec.data.graphs.neighbours import knn_graph, nearest_neighbours, nearest_neighbours_on_disk
from recbole_mambarec.data.rows import ItemRows


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(0, 10_000), st.integers(1, 12))
def test_neighbours_equal_a_full_sort_in_any_block_size(k, seed, block):
    features = np.random.default_rng(seed).normal(size=(10, 4)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    found = nearest_neighbours(features, k, block=block)
    for i in range(10):
        others = [j for j in np.argsort(-cosines[i]) if j != i][: k - 1]
        assert found.indices[i, 0] == i and found.cosines[i, 0] == 1
        assert set(found.indices[i, 1:]) == set(others)
        np.testing.assert_allclose(found.cosines[i, 1:], np.sort(cosines[i, others])[::-1], atol=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 10_000), st.integers(1, 12))
def test_neighbours_of_rows_on_disk_are_those_of_an_array(k, seed, block):
    rng = np.random.default_rng(seed)
    source, order = rng.normal(size=(14, 4)).astype(np.float16), rng.permutation(14)[:10]
    present = rng.random(10) < 0.8
    rows = ItemRows(source, order, np.zeros(4, np.float32))
    found = nearest_neighbours_on_disk(rows, k, present, block)
    expected = nearest_neighbours(rows[:], k, present)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-6)


def test_more_neighbours_than_items_gives_all_items():
    assert nearest_neighbours(np.eye(3, dtype=np.float32), 10).indices.shape == (3, 3)


def test_equal_items_keep_themselves():
    features = np.ones((6, 3), dtype=np.float32)
    assert nearest_neighbours(features, 2).indices[:, 0].tolist() == list(range(6))


def test_zero_rows_give_no_nan():
    features = np.zeros((4, 3), dtype=np.float32)
    features[0] = 1
    for weighting in ("cosine", "uniform"):
        graph = knn_graph(nearest_neighbours(features, 2), weighting).scipy().toarray()
        assert np.isfinite(graph).all()


def test_opposite_items_give_no_nan():
    features = np.array([[1.0, 0], [-1, 0], [-1, 0.01]], dtype=np.float32)
    assert np.isfinite(knn_graph(nearest_neighbours(features, 3)).scipy().toarray()).all()


def test_items_without_the_modality_are_linked_to_themselves_alone():
    features = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    present = np.array([True, True, False, True, False, True])
    found = nearest_neighbours(features, 3, present)
    for i in (2, 4):
        assert found.indices[i].tolist() == [i, -1, -1]
        assert i not in np.delete(found.indices, i, axis=0)
    graph = knn_graph(found, "uniform").scipy()
    np.testing.assert_allclose(graph.sum(axis=1), 1, atol=1e-6)
    assert graph[2, 2] == 1


def test_cosine_weights_equal_the_definition():
    features = np.abs(np.random.default_rng(1).normal(size=(7, 4))).astype(np.float32)
    found = nearest_neighbours(features, 3)
    kept = np.zeros((7, 7))
    np.put_along_axis(kept, found.indices.astype(int), found.cosines, axis=1)
    degrees = kept.sum(axis=1)
    expected = kept / np.sqrt(degrees[:, None] * degrees)
    np.testing.assert_allclose(knn_graph(found).scipy().toarray(), expected, atol=1e-6)


def test_uniform_weights_sum_to_one():
    found = nearest_neighbours(np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32), 3)
    np.testing.assert_allclose(knn_graph(found, "uniform").scipy().sum(axis=1), 1, atol=1e-6)


def test_unknown_weighting_and_k_are_refused():
    with pytest.raises(ValueError, match="weighting"):
        knn_graph(nearest_neighbours(np.eye(2, dtype=np.float32), 1), "binary")
    for search in (nearest_neighbours, nearest_neighbours_on_disk):
        with pytest.raises(ValueError, match="at least 1"):
            search(np.eye(2, dtype=np.float32), 0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_memory_stays_within_blocks(on_disk):
    """No items x items array is ever allocated (3000^2 floats would be 36 MB)."""
    features = np.random.default_rng(4).normal(size=(3000, 4)).astype(np.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        if on_disk:
            nearest_neighbours_on_disk(ItemRows(features, np.arange(3000), features[0]), 5, block=100)
        else:
            nearest_neighbours(features, 5, block=100)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 3000 * 3000 * 4 / 8
