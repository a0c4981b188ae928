import numpy as np
import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.pgl import principal_bipartite
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, random_dataset


class TestPGL(ModelContract):
    name = "PGL"
    baby_parameters = 34_359_808

    def test_three_tenths_of_the_edges_are_drawn_for_an_epoch(self):
        model = self.build()
        model.pre_epoch(0)
        assert model.training_graph.n_edges == 2 * int(len(model.data.pairs[0]) * 0.3)

    def test_global_form_trains_on_one_graph_and_is_evaluated_on_all_edges(self):
        model = self.build(random_dataset(n_users=50, n_items=40), subgraph="global", embedding_size=16)
        model.pre_epoch(0)
        assert model.train().graph is model.training_graph and model.eval().graph is model.bipartite
        dense = model.training_graph.scipy().toarray()
        np.testing.assert_array_equal(dense, principal_bipartite(model.data, 16).scipy().toarray())
        assert np.linalg.matrix_rank(dense) > 0 and not np.array_equal(dense, model.bipartite.scipy().toarray())

    def test_unusable_subgraphs_are_refused(self):
        with pytest.raises(UserError, match="subgraph 'both' is unknown"):
            self.build(subgraph="both")
        with pytest.raises(UserError, match="more than 32 users and items"):
            self.build(random_dataset(n_users=20, n_items=40), subgraph="global", embedding_size=64)
        with pytest.raises(UserError, match="a quarter of 7 singular vectors is no pair"):
            self.build(subgraph="global", embedding_size=7)


def training_data(users, items, n_users, n_items):
    return InMemoryDataset(users, items, n_users, n_items, {}).training_data()


@pytest.mark.parametrize("rank", [64, 40, 16])
def test_the_principal_graph_equals_the_dense_definition(rank, monkeypatch):
    monkeypatch.setattr("recbole_mambarec.models.pgl._BLOCK_VALUES", 300)
    data = training_data(*np.nonzero(np.random.default_rng(0).random((45, 40)) < 0.2), 45, 40)
    kept = rank // 4
    left, values, right = np.linalg.svd(data.bipartite.scipy().toarray().astype(np.float64))
    expected = (left[:, :kept] * (values[:kept] * values[rank - kept : rank])) @ right[:kept]
    large = np.abs(expected) >= 1e-3
    graph = principal_bipartite(data, rank)
    assert graph.n_edges == large.sum() <= large[:45, 45:].size * 2
    np.testing.assert_allclose(graph.scipy().toarray(), np.where(large, expected, 0), atol=1e-6)


def test_the_principal_graph_keeps_whole_pairs():
    """A quarter of 43 vectors is 10 vectors or 5 pairs, and a quarter of 42, which are 21 pairs, likewise."""
    data = training_data(*np.nonzero(np.random.default_rng(1).random((45, 40)) < 0.2), 45, 40)
    np.testing.assert_array_equal(*(principal_bipartite(data, rank).scipy().toarray() for rank in (42, 43)))


def test_the_principal_graph_needs_more_nodes_than_singular_vectors():
    data = training_data(np.arange(32), np.arange(32), 32, 40)
    with pytest.raises(ValueError, match="more than 32"):
        principal_bipartite(data, 64)
    with pytest.raises(ValueError, match="no pair"):
        principal_bipartite(data, 7)
