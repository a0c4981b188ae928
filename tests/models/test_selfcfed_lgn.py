from typing import ClassVar

import numpy as np
import torch

from recbole_mambarec.layers.edge_dropout import EdgeDropout
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestSELFCFED_LGN(ModelContract):
    name = "SELFCFED_LGN"
    ranking_loss = "pairs"
    settings: ClassVar = {"epochs": 40}
    features_cannot_rank = "it learns from ids alone"

    def test_targets_get_no_gradient(self):
        dataset = random_dataset()
        model = self.build(dataset, reg_weight=0.0)
        for parameter in model.predictor.parameters():
            parameter.data.zero_()
        sum(model.calculate_loss(self.some_batch(dataset))).backward()
        assert not model.user_embedding.weight.grad.any() and not model.item_embedding.weight.grad.any()

    def test_each_direction_of_an_edge_is_dropped_by_itself_and_the_gradient_follows(self):
        model = self.build()
        drawn = EdgeDropout(model.bipartite).draw(0.4)
        dense = drawn.entries().tensor().to_dense()
        kept = dense[model.bipartite.csr().to_dense() != 0] != 0
        assert 0 < kept.float().mean() < 1 and not torch.equal(dense, dense.T)
        torch.testing.assert_close(drawn.entries(transposed=True).tensor().to_dense(), dense.T)
        full = model.bipartite.csr().to_dense()
        torch.testing.assert_close(dense[dense != 0], full[dense != 0] / 0.6)
        x = torch.randn(len(dense), 3, requires_grad=True)
        weights = torch.randn(len(dense), 3)
        (drawn.propagate(x) * weights).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), (dense.T @ weights).numpy(), atol=1e-5)

    def test_scores_use_all_edges(self):
        model = self.build().eval()
        first, second = model.embed()[0], model.embed()[0]
        assert torch.equal(first, second)
        assert not torch.equal(model.train().embed()[0], first)
