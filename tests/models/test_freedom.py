from typing import ClassVar

import numpy as np
import pytest
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestFREEDOM(ModelContract):
    name = "FREEDOM"
    baby_parameters = 33_566_528
    settings: ClassVar = {"prune_rate": 0.3}
    inert: ClassVar = {"projection.*.bias": "it is added to both items of a pair, whose difference BPR takes"}

    def test_every_epoch_draws_its_edges_and_evaluation_uses_all(self):
        model = self.build(prune_rate=0.5)
        n_pairs = len(model.data.pairs[0])
        drawn = []
        for epoch in range(2):
            model.train()
            model.pre_epoch(epoch)
            drawn.append(model.training_graph.scipy().toarray())
            assert model.training_graph.n_edges == 2 * int(n_pairs * 0.5)
        assert not np.array_equal(*drawn)
        training = model.embed()[0]
        assert not torch.allclose(training, model.eval().embed()[0])
        model.training_graph = model.bipartite
        torch.testing.assert_close(model.train().embed()[0], model.eval().embed()[0])

    def test_the_seed_repeats_the_draw(self):
        model = self.build()
        graphs = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            model.pre_epoch(0)
            graphs.append(model.training_graph.scipy().toarray())
        assert np.array_equal(graphs[0], graphs[1]) and not np.array_equal(graphs[0], graphs[2])

    def test_without_pruning_training_uses_the_full_graph(self):
        model = self.build(prune_rate=0)
        model.pre_epoch(0)
        assert model.training_graph is model.bipartite

    @pytest.mark.parametrize(
        ("dims", "weights"),
        [
            ({"image": 4, "text": 4}, (0.2, 0.8)),
            ({"image": 4, "text": 4, "audio": 4}, (0.2, 0.4, 0.4)),
            ({"text": 4, "audio": 4}, (0.5, 0.5)),
            ({"image": 4}, (1.0,)),
        ],
    )
    def test_image_weight(self, dims, weights):
        model = self.build(random_dataset(dims=dims), mm_image_weight=0.2, knn_k=3)
        parts = [model.data.item_graph(m, 3, "uniform").scipy().toarray() for m in dims]
        expected = sum(weight * part for weight, part in zip(weights, parts))
        np.testing.assert_allclose(model.item_graph.scipy().toarray(), expected, atol=1e-6)

    def test_without_weight_the_modal_terms_are_not_computed(self):
        dataset = random_dataset()
        model = self.build(dataset, reg_weight=0)
        model.calculate_loss(self.some_batch(dataset))
        assert model.loss_names == ("bpr",)

    def test_a_prune_rate_of_one_is_refused(self):
        with pytest.raises(UserError, match="prune_rate must be at least 0 and below 1, got 1"):
            self.build(prune_rate=1)

    def test_a_prune_rate_that_leaves_no_edge_is_refused(self):
        with pytest.raises(UserError, match=r"prune_rate 0.9999 leaves none of the \d+ training edges"):
            self.build(prune_rate=0.9999)
