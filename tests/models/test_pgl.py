import numpy as np
import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


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
        np.testing.assert_array_equal(dense, model.data.principal_bipartite(16).scipy().toarray())
        assert np.linalg.matrix_rank(dense) > 0 and not np.array_equal(dense, model.bipartite.scipy().toarray())

    def test_unusable_subgraphs_are_refused(self):
        with pytest.raises(UserError, match="subgraph 'both' is unknown"):
            self.build(subgraph="both")
        with pytest.raises(UserError, match="more than 32 users and items"):
            self.build(random_dataset(n_users=20, n_items=40), subgraph="global", embedding_size=64)
        with pytest.raises(UserError, match="a quarter of 7 singular vectors is no pair"):
            self.build(subgraph="global", embedding_size=7)
