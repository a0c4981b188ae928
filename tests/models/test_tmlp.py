from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.tmlp_graph import mutual_information
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestTMLP(ModelContract):
    name = "TMLP"
    sizes: ClassVar = {"hidden_dim": 16, "mi_neighbors": 2}
    settings: ClassVar = {"hidden_dim": 16, "epochs": 40, "learning_rate": 0.01}

    @pytest.mark.parametrize("repeats", [False, True])
    def test_the_contrast_is_that_of_the_published_matrices(self, repeats):
        dataset = random_dataset()
        model = self.build(dataset, tau=1.7)
        batch = torch.tensor([3, 5, 3, 8, 0, 5, 5] if repeats else [3, 5, 8, 0])
        items = torch.randn(dataset.n_items, 6)
        pruned = torch.zeros(dataset.n_items, dataset.n_items)
        pruned.scatter_add_(1, model.informative.long(), model.informative_weights)
        unit = torch.nn.functional.normalize(items, dim=1)[batch]
        exponentials = torch.exp(1.7 * (unit @ unit.T).fill_diagonal_(0.0))
        weights = pruned[batch][:, batch]
        expected = -torch.log((exponentials * weights).sum(1) / exponentials.sum(1) + 1e-8).mean()
        torch.testing.assert_close(model._contrast(items, batch), expected)

    def test_an_unknown_activation_is_refused(self):
        with pytest.raises(UserError, match="activation"):
            self.build(activation="swish")


def test_mutual_information_of_small_rows():
    graph = np.array([[0.5, 0.5, 0.0], [0.0, 0.4, 0.6], [0.3, 0.3, 0.4]])
    found = mutual_information(sp.csr_array(graph)).toarray()
    chance = graph.sum(axis=1) / 3
    there = graph > 0
    for i, j in [(0, 1), (1, 2), (2, 0), (2, 1)]:
        expected = 0.0
        for a, p in ((there[i], chance[i]), (~there[i], 1 - chance[i])):
            for b, q in ((there[j], chance[j]), (~there[j], 1 - chance[j])):
                share = (a & b).mean()
                expected += share * np.log(share / (p * q + 1e-10) + 1e-10)
        assert found[i, j] == pytest.approx(expected)
    assert not found.diagonal().any() and found[0, 2] == 0
