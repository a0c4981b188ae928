from typing import ClassVar

import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestMMGCN(ModelContract):
    name = "MMGCN"
    baby_parameters = 1_418_240
    settings: ClassVar = {"latent_dim": 16, "epochs": 40}
    sizes: ClassVar = {"latent_dim": 16}
    whole_features = True

    def test_ids_are_trained_on_request_and_saved_in_any_case(self):
        dataset = random_dataset()
        for variant in ("released", "paper"):
            model = self.build(dataset, variant=variant)
            trained = {name for name, _ in model.named_parameters()}
            tables = {"node_ids", "preference_image", "preference_text"}
            assert tables <= set(model.state_dict())
            assert tables & trained == (tables if variant == "paper" else set())

    def test_the_regulariser_moves_no_weight_unless_ids_are_trained(self):
        dataset = random_dataset()
        for variant in ("released", "paper"):
            gradients = []
            for weight in (0.0, 100.0):
                model = self.build(dataset, variant=variant, reg_weight=weight)
                sum(model.calculate_loss(self.some_batch(dataset))).backward()
                gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            assert torch.equal(*gradients) == (variant == "released")

    def test_only_some_modalities_are_mapped_first(self):
        model = self.build(latent_dim=5)
        assert model.towers["image"].entry.out_features == 5 and model.towers["text"].entry is None
        assert model.preference_image.shape[1] == 5 and model.preference_text.shape[1] == 7
