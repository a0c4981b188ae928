import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_mambarec.data.graphs.bipartite import (
    bipartite_adjacency,
    interaction_matrix,
    mean_adjacency,
    prune_edges,
    user_item_block,
)

edges = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=25)


@given(edges)
def test_the_normalised_adjacency_equals_the_dense_definition(pairs):
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


def test_a_repeated_interaction_counts_once():
    matrix = interaction_matrix(np.array([0, 0, 1]), np.array([1, 1, 0]), 2, 2)
    assert matrix.toarray().tolist() == [[0, 1], [1, 0]]


def all_pairs(n_users=20, n_items=30):
    rng = np.random.default_rng(0)
    popular = np.linspace(0.05, 0.9, n_items)
    return np.nonzero(rng.random((n_users, n_items)) < popular)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 0.99])
def test_pruning_drops_the_given_share(rate):
    users, items = all_pairs()
    kept = prune_edges(users, items, 20, 30, rate)
    assert len(kept) == int(len(users) * (1 - rate))
    assert (np.diff(kept) > 0).all()


def test_pruning_draws_edges_with_probabilities_proportional_to_their_weights():
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
