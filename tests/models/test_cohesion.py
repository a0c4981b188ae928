from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers import random_dataset
from tests.models.contract import ModelContract


class TestCOHESION(ModelContract):
    name = "COHESION"
    baby_parameters = 5_398_016
    settings: ClassVar = {"hidden_dim": 16, "epochs": 30}
    sizes: ClassVar = {"hidden_dim": 16}

    def test_scores_and_loss_equal_the_definition(self):
        dataset = random_dataset()
        model = self.build(dataset, n_ui_layers=2)
        a, s, v = (torch.tensor(g.scipy().toarray()) for g in (model.bipartite, model.item_graph, model.user_graph))
        q, branches = model.item_embedding, []
        for name, x in (("ids", q), *((m, model.features[m]()) for m in ("image", "text"))):
            first, _, second = model.mlp[name]
            r = torch.sqrt((q**2 + second(F.leaky_relu(first(x))) ** 2) / 2 + 1e-8)
            x = y = F.normalize(torch.cat([model.preference[name], r]), dim=1)
            total = x
            for _ in range(2):
                z = a @ y
                y = F.cosine_similarity(z, x, dim=1)[:, None] * z
                total = total + y
            branches.append(total)
        nodes = torch.cat(branches, dim=1)
        users, items = nodes[: dataset.n_users], nodes[dataset.n_users :]
        users, items = users + v @ users, items + s @ items
        for ours, expected in zip(model.embed(), (users, items)):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)

        rows = self.some_batch(dataset)
        u, i, j = (rows[name] - 1 for name in ("user_id", "item_id", "neg_item_id"))
        positive = (users[u] * items[i]).view(-1, 3, 8).sum(2)
        negative = (users[u] * items[j]).view(-1, 3, 8).sum(2)
        g = 1 - (positive - negative).softmax(dim=1)
        expected = -torch.log2(torch.sigmoid((g * positive).sum(1) - (g * negative).sum(1))).mean()
        squares = sum((model.preference[m][u] ** 2).mean() for m in ("image", "text"))
        total = expected + 1e-3 * squares
        assert sum(model.calculate_loss(rows)).item() == pytest.approx(total.item(), rel=1e-4)

    def test_the_id_branch_is_not_trained_unless_asked_for(self):
        dataset = random_dataset()
        for train_ids in (False, True):
            model = self.build(dataset, train_ids=train_ids)
            sum(model.calculate_loss(self.some_batch(dataset))).backward()
            parameters = [model.preference["ids"], *model.mlp["ids"].parameters()]
            assert all((p.grad is not None) == train_ids for p in parameters)
            assert model.item_embedding.grad.any()

    def test_repeats_are_drawn_per_epoch_and_not_used_in_evaluation(self):
        model = self.build(user_knn_k=30)
        drawn = []
        for epoch in range(2):
            model.pre_epoch(epoch)
            drawn.append(model.training_user_graph.scipy().toarray())
        assert not np.array_equal(*drawn)
        np.testing.assert_allclose(drawn[0].sum(axis=1), 1, atol=1e-6)
        before = model.eval().embed()[0]
        model.train().pre_epoch(2)
        torch.testing.assert_close(model.eval().embed()[0], before)
