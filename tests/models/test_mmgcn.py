from typing import ClassVar

import pytest
import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestMMGCN(ModelContract):
    name = "MMGCN"
    baby_parameters = 1_418_240
    settings: ClassVar = {"latent_dim": 16, "epochs": 40}
    sizes: ClassVar = {"latent_dim": 16}
    whole_features = True

    def test_ids_are_trained_on_request_and_always_saved(self):
        dataset = random_dataset()
        for variant in ("released", "paper"):
            model = self.build(dataset, variant=variant)
            trained = {name for name, _ in model.named_parameters()}
            tables = {"node_ids.weight", "preference.image.weight", "preference.text.weight"}
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
        assert [model.preference[m]().shape[1] for m in ("image", "text")] == [5, 7]

    @pytest.mark.parametrize("variant", ["released", "paper"])
    def test_a_state_saved_under_the_former_names_is_loaded(self, variant):
        """Both were tensors of the model itself; an optimiser's state goes by the order of parameters."""
        dataset = random_dataset()
        saved, model = (self.build(dataset, seed=seed, variant=variant) for seed in (0, 1))
        former = {"node_ids.weight": "node_ids"} | {
            f"preference.{m}.weight": f"preference_{m}" for m in ("image", "text")
        }
        model.load_state_dict({former.get(name, name): value for name, value in saved.state_dict().items()})
        assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())
        first = [former.get(name, name) for name, _ in model.named_parameters()][:3]
        assert (first == ["node_ids", "preference_image", "preference_text"]) == (variant == "paper")
