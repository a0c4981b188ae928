from typing import ClassVar

import numpy as np
import pytest
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.soil_graphs import Interest
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestSOIL(ModelContract):
    name = "SOIL"
    sizes: ClassVar = {"variant": "paper"}

    def test_the_released_variant_needs_as_many_users_as_items(self):
        with pytest.raises(UserError, match="needs as many users as items, there are 10 and 20: use variant paper"):
            self.build(random_dataset(n_users=10, n_items=20), variant="released")

    def test_the_variants_differ_in_what_features_bring_to_users(self):
        dataset = random_dataset(n_users=40, n_items=20)
        released, paper = (self.build(dataset, variant=variant) for variant in ("released", "paper"))
        torch.testing.assert_close(released.bipartite.csr().to_dense(), paper.bipartite.csr().to_dense())
        assert not torch.allclose(released.user_item.csr().to_dense(), paper.user_item.csr().to_dense())


@pytest.mark.parametrize("values", [1 << 25, 50])
def test_blocks_change_nothing_and_the_graphs_are_the_dense_ones(values, monkeypatch):
    monkeypatch.setattr("recbole_mambarec.models.soil_graphs._BLOCK_VALUES", values)
    rng = np.random.default_rng(3)
    n_users, n_items, k, k2 = 13, 11, 3, 2
    pairs = rng.random((n_users, n_items)) < 0.3
    pairs[4] = False
    users, items = np.nonzero(pairs)
    features = {"image": rng.normal(size=(n_items, 5)), "text": rng.normal(size=(n_items, 4))}
    features = {name: x.astype(np.float32) for name, x in features.items()}
    found = Interest(users, items, n_users, n_items, features)
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in features.items()}
    cosines = {name: x @ x.T for name, x in unit.items()}
    graphs = {name: np.zeros((n_items, n_items)) for name in unit}
    second = np.zeros((n_users, n_items))
    for user in range(n_users):
        history = np.flatnonzero(pairs[user])
        if not len(history):
            continue
        candidates = set()
        for s in cosines.values():
            candidates |= set(np.argsort(-s[history].sum(axis=0))[:k].tolist())
        for name, s in cosines.items():
            for h in history:
                for c in candidates:
                    graphs[name][h, c] += s[h, c]
        most = min(k2 + len(history), n_items)
        product = np.prod([s[history] for s in cosines.values()], axis=0)
        entries = sorted((-row[j], j) for row in product for j in np.argsort(-row)[:most])[:most]
        for value, j in entries:
            second[user, j] -= value
    for name, graph in found.item_graphs(k).items():
        np.testing.assert_allclose(graph.toarray(), graphs[name], atol=1e-5)
    # cosines are symmetric: of two items that a user has, either may be the last neighbour that is kept
    np.testing.assert_allclose(found.second_order(k2).toarray().sum(axis=1), second.sum(axis=1), atol=1e-5)
