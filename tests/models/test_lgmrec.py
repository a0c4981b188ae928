import numpy as np
import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestLGMRec(ModelContract):
    name = "LGMRec"
    baby_parameters = 2_000_320

    def test_evaluation_is_repeatable_unless_noise_is_asked_for(self):
        dataset = random_dataset()
        model = self.build(dataset).eval()
        assert torch.equal(model.embed()[0], model.embed()[0])
        noisy = self.build(dataset, variant="released").eval()
        assert not torch.equal(noisy.embed()[0], noisy.embed()[0])

    def test_the_hyperedge_logits_of_a_user_are_the_sum_over_their_items(self):
        dataset = random_dataset()
        model = self.build(dataset, keep_rate=1.0).eval()
        memberships = []
        original = model._membership
        model._membership = lambda logits: (memberships.append(logits), original(logits))[1]
        model._global("image", model.item_embedding.weight)
        items, users = (x.detach().numpy() for x in memberships)
        own = np.zeros((dataset.n_users, dataset.n_items), dtype=np.float32)
        own[dataset.users, dataset.items] = 1
        np.testing.assert_allclose(users, own @ items, rtol=1e-4, atol=1e-5)

    def test_modalities_are_contrasted_in_pairs(self):
        for dims, same in (({"image": 4}, True), ({"image": 4, "text": 4, "audio": 4}, False)):
            dataset = random_dataset(dims=dims)
            model = self.build(dataset)
            parts = dict(zip(("bpr", "user", "item", "reg"), model.calculate_loss(self.some_batch(dataset))))
            assert (parts["user"].item() == 0) == same
