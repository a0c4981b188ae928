"""What models get of the training data."""

import numpy as np

from recbole_mambarec.data.cache import ArrayCache
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.testing.data import InMemoryDataset, random_dataset


def test_neighbour_lists_of_earlier_releases_are_still_found(tmp_path):
    """The name of the entry, and what is in it, are those of the first release of the search (version 1)."""
    features = np.array([[1, 0], [1, 1], [0, 1], [2, 1]], dtype=np.float32)
    dataset = InMemoryDataset([0], [0], 1, 4, {"image": features})
    cached = {"indices": np.array([[0, 2], [1, 0], [2, 0], [3, 0]], np.int32), "cosines": np.ones((4, 2), np.float32)}
    np.savez(tmp_path / "neighbours-a01bcaa3cf7784c07900b6d5.npz", **cached)
    data = TrainingData(dataset.users, dataset.items, 1, 4, dataset.item_features, cache=ArrayCache(tmp_path))
    found = data.neighbours("image", 3)
    np.testing.assert_array_equal(found.indices, cached["indices"])
    np.testing.assert_array_equal(found.cosines, cached["cosines"])


def test_a_fingerprint_and_a_spectrum_do_not_depend_on_where_the_rows_are(monkeypatch):
    monkeypatch.setattr("recbole_mambarec.data.rows.blocks.__defaults__", (30,))
    for n_items in (6, 40):
        datasets = [random_dataset(n_items=n_items, on_disk=on_disk).training_data() for on_disk in (False, True)]
        assert len({data.content_key("image") for data in datasets}) == 1
        spectra = [data.spectrum("image") for data in datasets]
        np.testing.assert_allclose(*spectra, atol=1e-5)
        matrix = datasets[0].features("image")
        expected = np.linalg.eigvalsh(np.cov(matrix.T, bias=True))[::-1]
        np.testing.assert_allclose(spectra[0], expected[: len(spectra[0])], atol=1e-4)
