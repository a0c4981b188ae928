from typing import ClassVar

import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestDualGNN(ModelContract):
    name = "DualGNN"
    settings: ClassVar = {"hidden_dim": 16, "epochs": 30}
    sizes: ClassVar = {"hidden_dim": 16}

    def test_the_variants_differ_in_the_first_modality_of_users_alone(self):
        dataset = random_dataset()
        (users, items), (paper_users, paper_items) = (
            self.build(dataset, variant=variant).eval().embed() for variant in ("released", "paper")
        )
        torch.testing.assert_close(items, paper_items)
        assert not torch.allclose(users, paper_users)

    def test_repeats_of_neighbours_are_drawn_for_each_epoch_and_leave_scores_alone(self):
        model = self.build(user_knn_k=30)
        model.pre_epoch(0)
        first = model.user_graph.drawn.scipy().toarray()
        model.pre_epoch(1)
        assert (first != model.user_graph.drawn.scipy().toarray()).any()
        before = model.eval().embed()[0]
        model.train().pre_epoch(2)
        torch.testing.assert_close(model.eval().embed()[0], before)
