import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.losses import bpr, info_nce
from tests.helpers import random_dataset
from tests.models.contract import ModelContract


class TestPGL(ModelContract):
    name = "PGL"
    baby_parameters = 34_359_808

    def test_scores_and_loss_equal_the_definition(self):
        dataset = random_dataset()
        model = self.build(dataset, dropout_prob=0.0)
        a, s = (torch.tensor(graph.scipy().toarray()) for graph in (model.bipartite, model.item_graph))
        items = [F.normalize(model.projection[m](model.features[m]()), dim=1) for m in ("image", "text")]
        users = [model.user_embedding[m].weight for m in ("image", "text")]
        nodes = torch.cat([torch.cat(users, dim=1), torch.cat(items, dim=1)])
        out = (nodes + a @ nodes + a @ a @ nodes) / 3
        users, items = out[: dataset.n_users], out[dataset.n_users :] + s @ torch.cat(items, dim=1)
        for ours, expected in zip(model.eval().embed(), (users, items)):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
        rows = self.some_batch(dataset)
        u, p, n = users[rows["user_id"] - 1], items[rows["item_id"] - 1], items[rows["neg_item_id"] - 1]
        expected = bpr(u, p, n) + 0.05 * (info_nce(u, u, 0.2) + info_nce(p, p, 0.2)) / 2
        assert sum(model.train().calculate_loss(rows)).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_three_tenths_of_the_edges_are_drawn_for_an_epoch(self):
        model = self.build()
        model.pre_epoch(0)
        assert model.training_graph.n_edges == 2 * int(len(model.data.pairs[0]) * 0.3)

    def test_global_form_trains_on_one_graph_and_is_evaluated_on_all_edges(self):
        model = self.build(random_dataset(n_users=50, n_items=40), subgraph="global")
        model.pre_epoch(0)
        assert model.train().graph is model.training_graph and model.eval().graph is model.bipartite
        dense = model.training_graph.scipy().toarray()
        np.testing.assert_array_equal(dense, model.data.principal_bipartite().scipy().toarray())
        assert np.linalg.matrix_rank(dense) > 0 and not np.array_equal(dense, model.bipartite.scipy().toarray())

    def test_unusable_subgraphs_are_refused(self):
        with pytest.raises(UserError, match="subgraph 'both' is unknown"):
            self.build(subgraph="both")
        with pytest.raises(UserError, match="more than 32 users and items"):
            self.build(random_dataset(n_users=20, n_items=40), subgraph="global")
