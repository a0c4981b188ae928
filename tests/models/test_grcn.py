from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestGRCN(ModelContract):
    name = "GRCN"
    baby_parameters = 4_524_478
    settings: ClassVar = {"latent_embedding": 16}
    sizes: ClassVar = {"latent_embedding": 8}

    def test_paper_routing_equals_the_dense_definition(self):
        dataset = random_dataset()
        model = self.build(dataset, variant="paper", n_routing_rounds=2)
        own = torch.zeros(dataset.n_users, dataset.n_items, dtype=torch.bool)
        own[dataset.users, dataset.items] = True
        items = F.normalize(F.leaky_relu(model.projection["text"](model.features["text"]())), dim=1)
        users = F.normalize(model.preference["text"], dim=1)
        for _ in range(2):
            shares = (users @ items.T).masked_fill(~own, -torch.inf).softmax(dim=1)
            users = F.normalize(users + shares @ items, dim=1)
        shares = (users @ items.T).masked_fill(~own, -torch.inf).softmax(dim=1)
        torch.testing.assert_close(model._content("text")[0], users + shares @ items, atol=1e-5, rtol=1e-4)

    def test_routing_changes_the_loss_and_other_values_are_refused(self):
        dataset = random_dataset()
        losses = [
            sum(self.build(dataset, variant=variant).calculate_loss(self.some_batch(dataset))).item()
            for variant in ("released", "paper")
        ]
        assert losses[0] != losses[1]
        with pytest.raises(UserError, match="variant 'none' is unknown: use one of released, paper"):
            self.build(dataset, variant="none")

    def test_a_node_without_confidence_sends_nothing(self):
        dataset = random_dataset()
        model = self.build(dataset)
        model.confidence.data.fill_(-1.0)
        users, _ = model.embed()
        torch.testing.assert_close(users[:, :8], F.normalize(model.node_ids, dim=1)[: dataset.n_users])
