from typing import ClassVar

import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.models.smore import entrywise_maximum
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestSMORE(ModelContract):
    name = "SMORE"
    baby_parameters = 33_608_198
    settings: ClassVar = {"modality_knn_k": {}}
    sizes: ClassVar = {"modality_knn_k": {}}

    @pytest.mark.parametrize("d", [7, 8])
    def test_the_fused_features_are_a_circular_convolution(self, d):
        model = self.build(embedding_size=d)
        model.filter["fused"].data = torch.tensor([1.0, 0.0]).repeat(d // 2 + 1, 1)
        image, text = (model.projection[m](model.features[m]()) for m in ("image", "text"))
        shifts = torch.stack([text.roll(k, dims=1) for k in range(d)], dim=2)
        expected = torch.einsum("nk,njk->nj", image, shifts) / np.sqrt(d)
        torch.testing.assert_close(model._filtered()["fused"], expected, atol=1e-5, rtol=1e-4)

    def test_a_filter_of_ones_changes_nothing(self):
        model = self.build()
        model.filter["text"].data = torch.tensor([1.0, 0.0]).repeat(5, 1)
        expected = model.projection["text"](model.features["text"]())
        torch.testing.assert_close(model._filtered()["text"], expected, atol=1e-6, rtol=1e-5)

    def test_a_modality_may_be_called_fused(self):
        model = self.build(random_dataset(dims={"fused": 9, "text": 7}))
        assert model.fused_branch == "fused_" and set(model.item_graph) == {"fused", "text", "fused_"}
        assert model.projection["fused"].in_features == 9 and set(model.attention) == {"fused", "text"}

    def test_modalities_may_have_their_own_number_of_neighbours(self):
        model = self.build(knn_k=3, modality_knn_k={"image": 5})
        assert model.item_graph["image"].n_edges == 5 * 20 and model.item_graph["text"].n_edges == 3 * 20
        union = {v: set(zip(*np.nonzero(g.scipy().toarray()))) for v, g in model.item_graph.items()}
        assert union["fused"] == union["image"] | union["text"]


def test_entries_that_are_not_stored_do_not_count_in_a_maximum():
    """Not even as a zero against a negative entry."""
    rng = np.random.default_rng(5)
    dense = [np.where(rng.random((9, 7)) < 0.4, rng.normal(size=(9, 7)), 0) for _ in range(2)]
    largest = np.maximum(*(np.where(x != 0, x, -np.inf) for x in dense))
    found = entrywise_maximum([SparseGraph(x) for x in dense]).scipy().toarray()
    np.testing.assert_allclose(found, np.where(np.isinf(largest), 0, largest), atol=1e-6)
    assert (found < 0).any()
