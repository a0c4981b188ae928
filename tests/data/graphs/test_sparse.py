import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.bipartite import bipartite_adjacency
from recbole_mambarec.data.graphs.neighbours import knn_graph, nearest_neighbours
from recbole_mambarec.data.graphs.sparse import SparseGraph, weighted_sum


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
    graph = SparseGraph(np.ones((2, 3)))
    assert graph.state_dict() == {}
    assert sum(1 for _ in graph.buffers()) == 6


def test_a_weighted_sum_equals_the_dense_one():
    rng = np.random.default_rng(5)
    dense = [np.where(rng.random((4, 6)) < 0.5, rng.normal(size=(4, 6)), 0) for _ in range(2)]
    total = weighted_sum([SparseGraph(matrix) for matrix in dense], [0.3, 0.7])
    np.testing.assert_allclose(total.scipy().toarray(), 0.3 * dense[0] + 0.7 * dense[1], atol=1e-6)


def test_a_graph_takes_over_the_entries_of_another():
    first, second = (SparseGraph(matrix) for matrix in (np.zeros((3, 2)), np.arange(6.0).reshape(3, 2)))
    x = torch.ones(2, 1, requires_grad=True)
    first.replace(second)
    assert np.array_equal(first.scipy().toarray(), second.scipy().toarray())
    first.propagate(x).sum().backward()
    assert x.grad.flatten().tolist() == [6, 9]
    for other in (SparseGraph(np.zeros((2, 3))), SparseGraph(np.zeros((3, 2)), symmetric=True)):
        with pytest.raises(ValueError, match="cannot become"):
            first.replace(other)
