import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestVBPR(ModelContract):
    name = "VBPR"
    baby_parameters = 3_226_944

    def test_an_item_is_its_id_and_its_projected_features_side_by_side(self):
        model = self.build(random_dataset(dims={"image": 5, "text": 3}))
        users, items = model.embed()
        assert users.shape[1] == items.shape[1] == 16
        assert torch.equal(items[:, :8], model.item_embedding.weight)
        assert model.projection.in_features == 8 and not model.projection.bias.any()

    def test_a_step_projects_only_the_rows_of_the_batch(self):
        dataset = random_dataset(n_items=200)
        model = self.build(dataset)
        rows = []
        model.projection.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
        model.calculate_loss(self.some_batch(dataset, size=16))
        assert sum(rows) == 32
