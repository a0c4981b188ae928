import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_mambarec.data.graphs import (
    Neighbours,
    SparseGraph,
    bipartite_adjacency,
    co_users,
    entrywise_maximum,
    interaction_matrix,
    knn_graph,
    mean_adjacency,
    nearest_neighbours,
    principal_bipartite,
    prune_edges,
    shared_neighbours,
    user_item_block,
    weighted_sum,
)
from recbole_mambarec.data.rows import ItemRows
from recbole_mambarec.testing.data import random_dataset

edges = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=25)


@given(edges)
def test_bipartite_adjacency_equals_the_dense_definition(pairs):
    users, items = np.array(pairs).T
    dense = np.zeros((6, 5))
    dense[users, items] = 1
    adjacency = np.block([[np.zeros((6, 6)), dense], [dense.T, np.zeros((5, 5))]])
    degrees = adjacency.sum(axis=1)
    scale = np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    expected = scale[:, None] * adjacency * scale
    np.testing.assert_allclose(bipartite_adjacency(users, items, 6, 5).scipy().toarray(), expected, atol=1e-7)
    block = user_item_block(users, items, 6, 5).scipy().toarray()
    np.testing.assert_allclose(block, expected[:6, 6:], atol=1e-7)


@pytest.mark.parametrize("rank", [64, 40, 16])
def test_principal_bipartite_equals_the_dense_definition(rank):
    users, items = np.nonzero(np.random.default_rng(0).random((45, 40)) < 0.2)
    kept = rank // 4
    left, values, right = np.linalg.svd(bipartite_adjacency(users, items, 45, 40).scipy().toarray().astype(np.float64))
    expected = (left[:, :kept] * (values[:kept] * values[rank - kept : rank])) @ right[:kept]
    large = np.abs(expected) >= 1e-3
    graph = principal_bipartite(users, items, 45, 40, rank)
    assert graph.n_edges == large.sum() <= large[:45, 45:].size * 2
    np.testing.assert_allclose(graph.scipy().toarray(), np.where(large, expected, 0), atol=1e-6)


def test_principal_bipartite_keeps_whole_pairs():
    """Of 43 vectors a quarter is 10, and 42 are 21 pairs."""
    users, items = np.nonzero(np.random.default_rng(1).random((45, 40)) < 0.2)
    graphs = [principal_bipartite(users, items, 45, 40, rank).scipy().toarray() for rank in (42, 43)]
    np.testing.assert_array_equal(*graphs)


def test_principal_bipartite_needs_more_nodes_than_singular_vectors():
    with pytest.raises(ValueError, match="more than 32"):
        principal_bipartite(np.arange(32), np.arange(32), 32, 40, 64)
    with pytest.raises(ValueError, match="no pair"):
        principal_bipartite(np.arange(32), np.arange(32), 32, 40, 7)


def test_a_repeated_interaction_counts_once():
    matrix = interaction_matrix(np.array([0, 0, 1]), np.array([1, 1, 0]), 2, 2)
    assert matrix.toarray().tolist() == [[0, 1], [1, 0]]


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
    found = nearest_neighbours(rows, k, present, block)
    expected = nearest_neighbours(rows[:], k, present)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-6)


def test_a_fingerprint_and_a_spectrum_do_not_depend_on_where_the_rows_are(monkeypatch):
    monkeypatch.setattr("recbole_mambarec.data.rows.blocks.__defaults__", (30,))
    for n_items in (6, 40):
        datasets = [random_dataset(n_items=n_items, on_disk=on_disk).training_data() for on_disk in (False, True)]
        assert len({data.content_key("image") for data in datasets}) == 1
        spectra = [data.spectrum("image") for data in datasets]
        np.testing.assert_allclose(*spectra, atol=1e-5)
        matrix = datasets[0].features("image")
        expected = np.linalg.eigvalsh(np.cov(matrix.T, bias=True))[::-1]
        np.testing.assert_allclose(spectra[0], expected[: len(spectra[0])], atol=1e-4)


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


@pytest.mark.parametrize("symmetric", [True, False])
def test_propagation_and_its_gradient_equal_dense_products(symmetric):
    rng = np.random.default_rng(3)
    if symmetric:
        graph = bipartite_adjacency(rng.integers(0, 5, 12), rng.integers(0, 4, 12), 5, 4)
    else:
        graph = knn_graph(nearest_neighbours(rng.normal(size=(9, 3)).astype(np.float32), 3))
    dense = torch.tensor(graph.scipy().toarray())
    x = torch.randn(9, 2, requires_grad=True)
    weight = torch.randn(9, 2)
    (graph.propagate(x) * weight).sum().backward()
    torch.testing.assert_close(graph.propagate(x).detach(), (dense @ x).detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(x.grad, dense.T @ weight, atol=1e-6, rtol=1e-5)


def test_graphs_are_not_part_of_a_state_dict():
    graph = user_item_block(np.array([0]), np.array([0]), 1, 1)
    assert graph.state_dict() == {}
    assert sum(1 for _ in graph.buffers()) == 6


def test_unknown_weighting_and_k_are_refused():
    with pytest.raises(ValueError, match="weighting"):
        knn_graph(nearest_neighbours(np.eye(2, dtype=np.float32), 1), "binary")
    with pytest.raises(ValueError, match="at least 1"):
        nearest_neighbours(np.eye(2, dtype=np.float32), 0)


def test_memory_stays_within_blocks():
    """No items x items array is ever allocated (3000^2 floats would be 36 MB)."""
    features = np.random.default_rng(4).normal(size=(3000, 4)).astype(np.float32)
    for rows in (features, ItemRows(features, np.arange(3000), features[0])):
        with torch.profiler.profile(profile_memory=True) as profile:
            nearest_neighbours(rows, 5, block=100)
        largest = max(event.cpu_memory_usage for event in profile.events())
        assert largest < 3000 * 3000 * 4 / 8


@given(edges)
def test_means_and_binary_blocks_equal_the_dense_definition(pairs):
    users, items = np.array(pairs).T
    dense = np.zeros((6, 5))
    dense[users, items] = 1
    adjacency = np.block([[np.zeros((6, 6)), dense], [dense.T, np.zeros((5, 5))]])
    expected = adjacency / np.maximum(adjacency.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(mean_adjacency(users, items, 6, 5).scipy().toarray(), expected, atol=1e-7)
    mean, binary = (user_item_block(users, items, 6, 5, kind).scipy().toarray() for kind in ("mean", "binary"))
    np.testing.assert_allclose(mean, expected[:6, 6:], atol=1e-7)
    np.testing.assert_allclose(binary, dense)
    with pytest.raises(ValueError, match="weighting"):
        user_item_block(users, items, 6, 5, "median")


def all_pairs(n_users=20, n_items=30):
    rng = np.random.default_rng(0)
    popular = np.linspace(0.05, 0.9, n_items)
    return np.nonzero(rng.random((n_users, n_items)) < popular)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 0.99])
def test_pruning_keeps_as_many_edges_as_asked(rate):
    users, items = all_pairs()
    kept = prune_edges(users, items, 20, 30, rate)
    assert len(kept) == int(len(users) * (1 - rate))
    assert (np.diff(kept) > 0).all()


def test_pruning_prefers_edges_of_small_degrees_as_its_weights_say():
    """The first edge drawn is edge e with probability w_e / sum w."""
    users, items = all_pairs(6, 4)
    degrees = np.bincount(users, minlength=6)[users] * np.bincount(items, minlength=4)[items]
    expected = 1 / np.sqrt(degrees)
    torch.manual_seed(0)
    rate = 1 - 1.5 / len(users)
    drawn = np.concatenate([prune_edges(users, items, 6, 4, rate) for _ in range(6000)])
    assert len(drawn) == 6000
    np.testing.assert_allclose(np.bincount(drawn, minlength=len(users)) / 6000, expected / expected.sum(), atol=0.02)


def test_a_prune_rate_outside_its_range_is_refused():
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="share of pruned edges"):
            prune_edges(np.array([0]), np.array([0]), 1, 1, rate)


def two_graphs():
    rng = np.random.default_rng(5)
    found = [nearest_neighbours(rng.normal(size=(9, 3)).astype(np.float32), 4) for _ in range(2)]
    return [knn_graph(lists) for lists in found]


def test_sums_and_maxima_of_graphs():
    graphs = two_graphs()
    one, other = (graph.scipy().toarray() for graph in graphs)
    np.testing.assert_allclose(weighted_sum(graphs, [0.3, 0.7]).scipy().toarray(), 0.3 * one + 0.7 * other, atol=1e-6)
    # what is not stored does not count, also against a negative entry
    stored = [np.where(x != 0, x, -np.inf) for x in (one, other)]
    expected = np.maximum(*stored)
    np.testing.assert_allclose(
        entrywise_maximum(graphs).scipy().toarray(), np.where(np.isinf(expected), 0, expected), atol=1e-6
    )
    negative = SparseGraph(interaction_matrix(np.array([0]), np.array([1]), 2, 2) * -1.0)
    assert entrywise_maximum([negative, SparseGraph(negative.scipy() * 0.5)]).scipy()[0, 1] == -0.5


def test_shared_neighbours_are_in_every_list_and_never_the_item_itself():
    lists = [
        Neighbours(np.array([[0, 1, 2], [1, 2, -1], [2, 0, -1]]), np.ones((3, 3))),
        Neighbours(np.array([[0, 2], [1, 0], [2, 0]]), np.ones((3, 2))),
    ]
    assert [list(x) for x in shared_neighbours(lists)] == [[0, 2], [2, 0]]


@pytest.mark.parametrize("block", [1, 50, 1 << 24])
def test_co_users_equal_the_dense_product(block):
    users, items = all_pairs(20, 8)
    matrix = interaction_matrix(users, items, 21, 8)  # user 20 has nothing
    shared = (matrix @ matrix.T).toarray()
    np.fill_diagonal(shared, 0)
    found = co_users(matrix, 5, block)
    for user in range(21):
        order = sorted(np.flatnonzero(shared[user]), key=lambda v: (-shared[user, v], v))[:5]
        rows = slice(found.starts[user], found.starts[user + 1])
        assert found.users[rows].tolist() == order
        assert found.counts[rows].tolist() == shared[user, order].tolist()
    graph = found.graph().scipy().toarray()
    powers = np.exp(found.counts[:5])
    np.testing.assert_allclose(graph[0, found.users[:5]], powers / powers.sum(), rtol=1e-5)
    assert not graph[20].any()


def test_repeated_neighbours_fill_up_to_k():
    """Two users share one item, so each is the other's only neighbour, however often repeated."""
    found = co_users(interaction_matrix(np.array([0, 1]), np.array([0, 0]), 2, 1), 4)
    np.testing.assert_allclose(found.graph(fill=True).scipy().toarray(), [[0, 1], [1, 0]])


def test_a_graph_becomes_another_one_in_its_place():
    first, second = (SparseGraph(matrix) for matrix in (np.zeros((3, 2)), np.arange(6.0).reshape(3, 2)))
    x = torch.ones(2, 1, requires_grad=True)
    first.replace(second)
    assert np.array_equal(first.scipy().toarray(), second.scipy().toarray())
    first.propagate(x).sum().backward()
    assert x.grad.flatten().tolist() == [6, 9]
    for other in (SparseGraph(np.zeros((2, 3))), SparseGraph(np.zeros((3, 2)), symmetric=True)):
        with pytest.raises(ValueError, match="cannot become"):
            first.replace(other)
