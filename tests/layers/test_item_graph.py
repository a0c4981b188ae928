import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.neighbours import knn_graph, nearest_neighbours
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.item_graph import ItemGraph
from recbole_mambarec.testing.data import random_dataset

K = 4


def build(kind: str, dataset=None, **settings) -> ItemGraph:
    return ItemGraph((dataset or random_dataset()).training_data(), K, kind, **settings)


def dense(graph) -> np.ndarray:
    return graph.scipy().toarray()


def cosine_graph(x: np.ndarray) -> np.ndarray:
    """The definition, item by item."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    kept = np.where(cosines >= np.sort(cosines, axis=1)[:, -K, None], cosines, 0)
    degrees = kept.sum(axis=1)
    return kept / np.sqrt(degrees[:, None] * degrees)


def learnt(n: int = 20, seed: int = 1) -> torch.Tensor:
    # away from zero, so that all cosines are positive
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(seed)) + 0.1


def test_the_refined_graph_is_the_cosine_graph_without_loops():
    graph = build("refined")
    graph.refresh(learnt())
    np.testing.assert_allclose(dense(graph.graph), cosine_graph(learnt().numpy()), atol=1e-5)
    assert (np.diff(graph.graph.scipy().indptr) == K).all()
    assert not dense(graph.graph).diagonal().any()


def test_the_mix_weighs_raw_and_refined():
    dataset = random_dataset()
    for features in dataset.item_features.values():
        features.matrix[1:] = np.abs(features.matrix[1:])
    graph = build("mix", dataset, refined_weight=0.3, image_weight=0.2)
    graph.refresh(learnt())
    image, text = (cosine_graph(dataset.item_features[m].matrix[1:]) for m in ("image", "text"))
    expected = 0.3 * cosine_graph(learnt().numpy()) + 0.7 * (0.2 * image + 0.8 * text)
    np.testing.assert_allclose(dense(graph.graph), expected, atol=1e-5)
    raw = build("raw", dataset, image_weight=0.2)
    raw.refresh(learnt())
    np.testing.assert_allclose(dense(raw.graph), 0.2 * image + 0.8 * text, atol=1e-5)
    assert not raw.state_dict()


def test_a_state_dict_restores_the_graph():
    first, second = build("mix"), build("mix")
    first.refresh(learnt(seed=1))
    second.refresh(learnt(seed=2))
    assert not np.array_equal(dense(first.graph), dense(second.graph))
    second.load_state_dict(first.state_dict())
    assert np.array_equal(dense(first.graph), dense(second.graph))


def test_before_a_search_there_is_no_graph_and_a_state_dict_makes_none():
    first, second = build("refined"), build("refined")
    second.load_state_dict(first.state_dict())
    assert not second.found
    with pytest.raises(ValueError, match="has not been searched"):
        second.propagate(torch.ones(20, 2))
    second.refresh(learnt())
    first.load_state_dict(second.state_dict())
    assert first.found and build("raw").found
    first.load_state_dict(build("refined").state_dict())
    assert not first.found


def test_learnt_neighbours_are_searched_the_way_the_raw_ones_are(monkeypatch):
    searched = []

    def approximate(rows, k, present, progress):
        searched.append(rows)
        return nearest_neighbours(rows, k, present)

    monkeypatch.setattr("recbole_mambarec.data.training.approximate_neighbours", approximate)
    exact = build("refined")
    exact.refresh(learnt())
    assert not searched
    data = random_dataset().training_data()
    data._knn_search = "approximate"
    graph = ItemGraph(data, K, "refined")
    graph.refresh(learnt())
    (rows,) = searched
    assert isinstance(rows, np.ndarray)
    assert np.array_equal(dense(graph.graph), dense(exact.graph))


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"refined_weight": 2}, "ii_refined_weight must be from 0 to 1, got 2"),
        ({"image_weight": 7.0}, "mm_image_weight must be from 0 to 1, got 7.0"),
    ],
)
def test_weights_are_shares(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        build("mix", **weights)


def test_no_gradient_reaches_the_graph():
    graph, source = build("refined"), learnt().requires_grad_()
    graph.refresh(2 * source)
    x = torch.ones(20, 3, requires_grad=True)
    graph.propagate(x).sum().backward()
    assert source.grad is None and x.grad is not None


def test_an_item_without_any_modality_neither_has_nor_is_a_refined_neighbour():
    dataset = random_dataset()
    for features in dataset.item_features.values():
        features.present[4] = False
    graph = build("refined", dataset)
    graph.refresh(learnt())
    assert not dense(graph.graph)[3].any() and not dense(graph.graph)[:, 3].any()


def test_fewer_items_than_neighbours():
    graph = build("refined", random_dataset(n_items=4))
    graph.refresh(learnt(4))
    assert (dense(graph.graph) > 0).sum(axis=1).tolist() == [3] * 4


def test_tensors_and_arrays_have_the_same_neighbours():
    x = learnt(50)
    of_tensor, of_array = (nearest_neighbours(features, 5) for features in (x.requires_grad_(), x.detach().numpy()))
    assert np.array_equal(of_tensor.indices, of_array.indices)
    assert np.array_equal(of_tensor.cosines, of_array.cosines)
    assert not np.array_equal(dense(knn_graph(of_array)), dense(knn_graph(of_array.without_self())))


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="ii_graph 'learnt' is unknown: use one of refined, raw, mix"):
        build("learnt")
