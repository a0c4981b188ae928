import numpy as np

from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.models.gume import shared_neighbours
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestGUME(ModelContract):
    name = "GUME"
    baby_parameters = 36_076_352

    def test_the_graph_links_items_that_are_neighbours_in_every_modality(self):
        modalities = {"image": 9, "text": 7, "audio": 5}
        dataset = random_dataset(dims=modalities)
        model = self.build(dataset, knn_k=11)
        lists = [model.data.neighbours(m, 11).indices for m in modalities]
        adjacency = np.zeros((50, 50))
        adjacency[dataset.users, 30 + dataset.items] = adjacency[30 + dataset.items, dataset.users] = 1
        links = 0
        for i in range(20):
            for j in set.intersection(*(set(found[i]) for found in lists)) - {i}:
                adjacency[30 + i, 30 + j] = 1
                links += 1
        assert links > 5
        scale = np.divide(1, np.sqrt(adjacency.sum(1)), out=np.zeros(50), where=adjacency.sum(1) > 0)
        expected = scale[:, None] * adjacency * scale
        np.testing.assert_allclose(model.bipartite.scipy().toarray(), expected, atol=1e-6)
        np.testing.assert_allclose(model.user_item.scipy().toarray(), expected[:30, 30:], atol=1e-6)


def test_shared_neighbours_are_in_every_list_and_never_the_item_itself():
    lists = [
        Neighbours(np.array([[0, 1, 2], [1, 2, -1], [2, 0, -1]]), np.ones((3, 3))),
        Neighbours(np.array([[0, 2], [1, 0], [2, 0]]), np.ones((3, 2))),
    ]
    assert [list(x) for x in shared_neighbours(lists)] == [[0, 2], [2, 0]]
