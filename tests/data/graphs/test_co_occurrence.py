import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.co_occurrence import co_occurrences


@pytest.mark.parametrize("block", [1, 50, 1 << 24])
def test_co_users_equal_the_dense_product(block):
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((20, 8)) < np.linspace(0.05, 0.9, 8))
    matrix = interaction_matrix(users, items, 21, 8)  # user 20 has nothing
    shared = (matrix @ matrix.T).toarray()
    np.fill_diagonal(shared, 0)
    found = co_occurrences(matrix, 5, block)
    for user in range(21):
        order = sorted(np.flatnonzero(shared[user]), key=lambda v: (-shared[user, v], v))[:5]
        rows = slice(found.starts[user], found.starts[user + 1])
        assert found.nodes[rows].tolist() == order
        assert found.counts[rows].tolist() == shared[user, order].tolist()
    graph = found.graph().scipy().toarray()
    powers = np.exp(found.counts[:5])
    np.testing.assert_allclose(graph[0, found.nodes[:5]], powers / powers.sum(), rtol=1e-5)
    assert not graph[20].any()


def test_the_transposed_matrix_gives_co_items():
    """Items 0 and 1 share users 0 and 1, item 2 shares user 1 with both."""
    matrix = interaction_matrix(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2]), 2, 3)
    found = co_occurrences(matrix.T.tocsr(), 1)
    assert found.nodes.tolist() == [1, 0, 0] and found.counts.tolist() == [2, 2, 1]


def test_a_single_neighbour_fills_the_list_whatever_is_drawn():
    """Two users share one item, so each is the other's only neighbour, however often it is repeated."""
    found = co_occurrences(interaction_matrix(np.array([0, 1]), np.array([0, 0]), 2, 1), 4)
    np.testing.assert_allclose(found.filled_graph().scipy().toarray(), [[0, 1], [1, 0]])


def test_repeats_weigh_as_often_as_they_were_drawn():
    """Of k = 4 places two are filled by the neighbours and two at random: 1 + n times e^count, n drawn."""
    users, items = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0])
    found = co_occurrences(interaction_matrix(users, items, 3, 2), 4)
    torch.manual_seed(0)
    weights = [found.filled_graph().scipy().toarray()[0, 1] for _ in range(40)]
    first, second = np.exp(2), np.exp(1)
    possible = [(1 + n) * first / ((1 + n) * first + (3 - n) * second) for n in range(3)]
    seen = {int(np.argmin(np.abs(np.array(possible) - weight))) for weight in weights}
    assert seen == {0, 1, 2}
    np.testing.assert_allclose(np.abs(np.subtract.outer(weights, possible)).min(axis=1), 0, atol=1e-6)
