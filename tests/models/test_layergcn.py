from typing import ClassVar

import numpy as np

from recbole_mambarec.testing.contract import ModelContract


class TestLayerGCN(ModelContract):
    name = "LayerGCN"
    settings: ClassVar = {"prune_rate": 0.1}
    features_cannot_rank = "it learns from ids alone"

    def test_edges_are_drawn_by_degree_in_even_epochs_only(self, monkeypatch):
        model = self.build(prune_rate=0.5)
        asked = []
        drawn = model.data.pruned_bipartite
        monkeypatch.setattr(
            model.data,
            "pruned_bipartite",
            lambda rate, by_degree=True: (asked.append((rate, by_degree)), drawn(rate, by_degree))[1],
        )
        for epoch in range(3):
            model.pre_epoch(epoch)
        assert asked == [(0.5, True), (0.5, False), (0.5, True)]

    def test_every_layer_is_weighed_with_its_similarity_to_the_ids(self):
        model = self.build(n_ui_layers=2).eval()
        a = model.bipartite.scipy().toarray()
        ids = np.concatenate([t.weight.detach().numpy() for t in (model.user_embedding, model.item_embedding)])

        def weigh(received: np.ndarray) -> np.ndarray:
            norms = np.linalg.norm(received, axis=1) * np.linalg.norm(ids, axis=1)
            return (received * ids).sum(axis=1, keepdims=True) / np.maximum(norms, 1e-8)[:, None] * received

        first = weigh(a @ ids)
        expected = first + weigh(a @ first)
        found = np.concatenate([x.detach().numpy() for x in model.embed()])
        np.testing.assert_allclose(found, expected, atol=1e-6)
