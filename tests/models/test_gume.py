import numpy as np
import pytest
import torch

from recbole_mambarec.layers.losses import bpr, info_nce, l2_half
from tests.helpers import random_dataset
from tests.models.contract import ModelContract


def dense(graph):
    return torch.tensor(graph.scipy().toarray())


class TestGUME(ModelContract):
    name = "GUME"
    baby_parameters = 36_076_352

    def test_the_graph_links_items_that_are_neighbours_in_every_modality(self):
        dataset = random_dataset()
        model = self.build(dataset, knn_k=8)
        lists = [model.data.neighbours(m, 8).indices for m in ("image", "text")]
        adjacency = np.zeros((50, 50))
        adjacency[dataset.users, 30 + dataset.items] = adjacency[30 + dataset.items, dataset.users] = 1
        links = 0
        for i in range(20):
            for j in (set(lists[0][i]) & set(lists[1][i])) - {i}:
                adjacency[30 + i, 30 + j] = 1
                links += 1
        assert links > 5
        scale = np.divide(1, np.sqrt(adjacency.sum(1)), out=np.zeros(50), where=adjacency.sum(1) > 0)
        expected = scale[:, None] * adjacency * scale
        np.testing.assert_allclose(model.bipartite.scipy().toarray(), expected, atol=1e-6)
        np.testing.assert_allclose(model.user_item.scipy().toarray(), expected[:30, 30:], atol=1e-6)

    def test_loss_equals_the_definition(self, monkeypatch):
        monkeypatch.setattr("recbole_mambarec.models.gume.signed_noise", lambda x: x)
        dataset = random_dataset()
        model = self.build(dataset, n_layers=1, n_ui_layers=1)
        a, r = dense(model.bipartite), dense(model.user_item)
        x, e, t = {}, {}, {}
        for m in ("image", "text"):
            gate = torch.sigmoid(model.item_gate[m](model.features[m]()))
            x[m] = dense(model.item_graph[m]) @ (model.item_embedding.weight * gate)
            e[m] = torch.cat([r @ x[m], x[m]])
            start = torch.cat([model.user_modality[m].weight, x[m]])
            t[m] = (start + a @ start) / 2
        extended = (t["image"] + t["text"]) / 2
        ids = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
        behaviour = (ids + a @ ids) / 2
        side = model.fusion(e, behaviour)
        final = behaviour + side
        rows = self.some_batch(dataset)
        u, i, j = rows["user_id"] - 1, rows["item_id"] + 29, rows["neg_item_id"] + 29
        gap = (e["image"].var() - e["text"].var()).abs() + (e["image"].mean() - e["text"].mean()).abs()
        users = info_nce(extended[u], side[u], 0.1) + info_nce(side[u], side[u], 0.1)
        expected = (
            bpr(final[u], final[i], final[j])
            + 1e-5 * l2_half(final[u], final[i], final[j], batch_size=2048)
            + 0.1 * l2_half(extended[i], batch_size=2048)
            + 0.1 * gap
            + 0.01 * (info_nce(side[u], behaviour[u], 0.4) + info_nce(side[i], behaviour[i], 0.4))
            + 0.01 * (users + info_nce(extended[u], extended[u], 0.1))
        )
        assert sum(model.calculate_loss(rows)).item() == pytest.approx(expected.item(), rel=1e-5)
