import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.helpers import random_dataset
from tests.models.contract import ModelContract


class TestBM3(ModelContract):
    name = "BM3"
    ranking_loss = "pairs"
    baby_parameters = 33_570_688

    def test_loss_equals_the_definition(self):
        dataset = random_dataset()
        model = self.build(dataset, dropout_prob=0.0)
        rows = self.some_batch(dataset)
        u, i = rows["user_id"] - 1, rows["item_id"] - 1
        a = torch.tensor(model.bipartite.scipy().toarray())
        ids = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
        users, items = ((ids + a @ ids) / 2).split([dataset.n_users, dataset.n_items])
        items = items + model.item_embedding.weight
        h = model.predictor

        def c(x, y):
            return 1 - cosine_similarity(x, y, dim=1).mean()

        expected = c(h(users[u]), items[i]) + c(h(items[i]), users[u])
        expected = expected + 0.1 * (users.norm() + items.norm()) / dataset.n_items
        for m in ("image", "text"):
            x = model.projection[m](model.features[m]()[i])
            expected = expected + 2 * (c(h(x), items[i]) + c(h(x), x))
        assert sum(model.calculate_loss(rows)).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_targets_get_no_gradient(self):
        dataset = random_dataset()
        model = self.build(dataset, reg_weight=0.0, cl_weight=0.0)
        for parameter in model.predictor.parameters():
            parameter.data.zero_()
        sum(model.calculate_loss(self.some_batch(dataset))).backward()
        # with a predictor of zeros the online side passes no gradient, so only targets could
        assert not model.user_embedding.weight.grad.any() and not model.item_embedding.weight.grad.any()
