from typing import ClassVar

import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestMENTOR(ModelContract):
    name = "MENTOR"
    settings: ClassVar = {"hidden_dim": 16, "epochs": 30, "learning_rate": 0.01}
    sizes: ClassVar = {"hidden_dim": 16}

    def test_scores_know_nothing_of_noise_and_guide(self):
        dataset = random_dataset()
        model = self.build(dataset).eval()
        before = model.embed()
        with torch.no_grad():
            for parameter in [*model.twins.parameters(), *model.id_branch.parameters(), model.item_embedding]:
                parameter.add_(1.0)
        for x, y in zip(before, model.embed()):
            torch.testing.assert_close(x, y)

    def test_noise_is_drawn_for_each_step(self):
        dataset = random_dataset()
        model = self.build(dataset)
        batch = self.some_batch(dataset)
        losses = [dict(zip(model.loss_names, model.calculate_loss(batch))) for _ in range(2)]
        losses = [dict(zip(model.loss_names, model.calculate_loss(batch))) for _ in range(2)]
        assert losses[0]["bpr"] == losses[1]["bpr"] and losses[0]["contrastive"] != losses[1]["contrastive"]
