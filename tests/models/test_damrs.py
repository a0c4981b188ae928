from typing import ClassVar

import numpy as np
import torch

from recbole_mambarec.models.damrs_graphs import behaviour_graph, denoised_graphs
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, random_dataset


class TestDAMRS(ModelContract):
    name = "DAMRS"

    def test_links_survive_where_all_modalities_are_similar(self):
        dataset = random_dataset(n_items=15)
        data = self.build(dataset).data
        unit = {m: torch.nn.functional.normalize(torch.from_numpy(data.features(m)[:]), dim=1) for m in data.modalities}
        cosines = {m: (x @ x.T).numpy() for m, x in unit.items()}
        similar = np.all([s >= s.mean() for s in cosines.values()], axis=0)
        for m, graph in denoised_graphs(data, 3).items():
            expected = np.zeros_like(similar)
            for row, values in enumerate(np.where(similar, cosines[m], -np.inf)):
                best = np.argsort(-values)[:3]
                expected[row, best[np.isfinite(values[best])]] = True
            assert np.array_equal(graph.scipy().toarray() != 0, expected)

    def test_items_that_share_one_user_alone_are_no_neighbours(self):
        users, items = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 0, 1, 1, 2, 3])
        features = {"image": np.eye(4, dtype=np.float32)}
        graph = behaviour_graph(self.build(InMemoryDataset(users, items, 4, 4, features)).data, 2).scipy().toarray()
        assert np.array_equal(graph != 0, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        np.testing.assert_allclose(graph[0], [0.5, 0.5, 0, 0])

    def test_repeats_in_the_batch_count_once_in_all_but_the_ranking(self):
        dataset = random_dataset()
        model = self.build(dataset).eval()
        users, positives, negatives = (torch.tensor(x) for x in ([1, 2, 3], [4, 5, 6], [7, 8, 9]))
        once = model.loss_parts(users, positives, negatives)
        twice = model.loss_parts(users.repeat(2), positives.repeat(2), negatives.repeat(2))
        for name in ("neighbours", "kl"):
            torch.testing.assert_close(once[name], twice[name])

    sizes: ClassVar = {}
