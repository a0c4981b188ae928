from typing import ClassVar

import numpy as np
import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestCOHESION(ModelContract):
    name = "COHESION"
    baby_parameters = 5_398_016
    settings: ClassVar = {"hidden_dim": 16, "epochs": 30}
    sizes: ClassVar = {"hidden_dim": 16}

    def test_items_pass_the_item_graph_as_often_as_asked_for(self):
        dataset = random_dataset()
        before, once, thrice = (self.build(dataset, n_mm_layers=n).eval().embed()[1] for n in (0, 1, 3))
        s = torch.tensor(self.build(dataset).item_graph.scipy().toarray())
        start = before / 2  # nothing is added but the items themselves
        torch.testing.assert_close(once, start + s @ start)
        torch.testing.assert_close(thrice, start + s @ s @ s @ start)

    def test_the_id_branch_is_not_trained_unless_asked_for(self):
        dataset = random_dataset()
        for variant in ("released", "paper"):
            model = self.build(dataset, variant=variant)
            sum(model.calculate_loss(self.some_batch(dataset))).backward()
            parameters = [model.preference["ids"], *model.mlp["ids"].parameters()]
            assert all((p.grad is not None) == (variant == "paper") for p in parameters)
            assert model.item_embedding.grad.any()

    def test_a_modality_may_be_called_ids(self):
        """It has a branch of its own beside that of the ids, which is called ``ids`` only where no modality is."""
        assert self.build().id_branch == "ids"
        dataset = random_dataset(dims={"ids": 9, "text": 7})
        model = self.build(dataset)
        assert list(model.mlp) == [model.id_branch, "ids", "text"] == ["ids_", "ids", "text"]
        assert model.mlp["ids"][0].in_features == 9 and model.mlp["ids_"][0].in_features == 8
        sum(model.calculate_loss(self.some_batch(dataset))).backward()
        assert model.preference["ids"].grad.any() and model.preference["ids_"].grad is None
        assert model.eval().embed()[1].shape == (dataset.n_items, 3 * 8)

    def test_repeats_are_drawn_per_epoch_and_not_used_in_evaluation(self):
        model = self.build(user_knn_k=30)
        drawn = []
        for epoch in range(2):
            model.pre_epoch(epoch)
            drawn.append(model.user_graph.drawn.scipy().toarray())
        assert not np.array_equal(*drawn)
        np.testing.assert_allclose(drawn[0].sum(axis=1), 1, atol=1e-6)
        before = model.eval().embed()[0]
        model.train().pre_epoch(2)
        torch.testing.assert_close(model.eval().embed()[0], before)
