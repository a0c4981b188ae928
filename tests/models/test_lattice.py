from typing import ClassVar

import numpy as np
import torch

from recbole_mambarec.layers.learnt_graph import WeightedNeighbours, kept_cosines, symmetric_sum
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestLATTICE(ModelContract):
    name = "LATTICE"
    sizes: ClassVar = {"feat_embed_dim": 8}
    inert: ClassVar = {}

    def test_only_the_first_batch_of_an_epoch_sends_a_gradient_through_the_graph(self):
        dataset = random_dataset()
        model = self.build(dataset)
        learnt = [model.modality_weight, *model.projection.parameters(), *model.features.parameters()]
        for epoch in range(2):
            model.pre_epoch(epoch)
            for number in range(3):
                model.zero_grad(set_to_none=True)
                sum(model.calculate_loss(self.some_batch(dataset))).backward()
                assert all((p.grad is not None) == (number == 0) for p in learnt)

    def test_evaluation_searches_in_the_present_features(self):
        dataset = random_dataset()
        model = self.build(dataset, ii_raw_weight=0.0)
        model.pre_epoch(0)
        model.train().embed()
        before = model.eval().embed()[1]
        with torch.no_grad():
            for layer in model.projection.values():
                layer.weight.copy_(torch.randn_like(layer.weight))
        model.train()
        assert not torch.allclose(model.eval().embed()[1], before)

    def test_missing_neighbours_weigh_nothing(self):
        dataset = random_dataset(n_items=12, dims={"image": 4})
        dataset.item_features["image"].present[1:4] = False
        model = self.build(dataset, knn_k=3)
        dense = model.learnt_graph("image").scipy().toarray()
        assert (np.count_nonzero(dense[:3], axis=1) == 1).all() and not dense[3:, :3].any()

    def test_weighted_neighbours_equal_dense_products(self):
        torch.manual_seed(0)
        features = torch.randn(9, 5, requires_grad=True)
        lists = self.build(random_dataset(n_items=9, dims={"image": 4})).data.neighbours_among(features.detach(), 3)
        parts = [kept_cosines(features, lists)]
        graph = symmetric_sum(parts, torch.tensor([0.5]), 0.7)
        x = torch.randn(9, 2)
        unit = torch.nn.functional.normalize(features, dim=1)
        mask = torch.zeros(9, 9).scatter(1, torch.from_numpy(lists.indices).long(), 1.0)
        weights = 0.5 * (unit @ unit.T) * mask
        degrees = weights.sum(dim=1)
        dense = 0.7 * weights / (degrees[:, None] * degrees[None, :]).sqrt()
        torch.testing.assert_close(graph.propagate(x), dense @ x)
        ours, theirs = (torch.autograd.grad(y.square().sum(), features)[0] for y in (graph.propagate(x), dense @ x))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    def test_a_row_without_positive_sum_receives_nothing(self):
        part = WeightedNeighbours(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1.0, 0.5], [0.1, -0.4]]))
        graph = symmetric_sum([part], torch.ones(1), 1.0)
        assert torch.isfinite(graph.weights).all() and not graph.weights[1].any()
