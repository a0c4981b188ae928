"""ItemKNNCBF: items whose features resemble those of a user's items; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_mambarec.data.graphs.neighbours import LargestSoFar
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.item_to_item import ItemToItem, memory_of_lists

# float32 similarities held at a time during the search (128 MiB)
_BLOCK_VALUES = 1 << 25
# raise it when the search changes, so that lists that are kept on disk are not taken for new ones
_SEARCH_VERSION = 1


class ItemKNNCBF(ItemToItem):
    """Content-based item k-nearest-neighbours, as compared in "Are We Really Making Much Progress? A Worrying Analysis
    of Recent Neural Recommendation Approaches" (RecSys 2019, arXiv 1907.06902) and provided by MMRec.

    An item scores high for a user if its features resemble those of many of their items. Items are compared by the
    features of all modalities side by side. There is nothing to train: one epoch evaluates it.

    Score, with f_h the features of item h in all modalities, side by side::

        s(u, i) = (R K)_ui
        K_hi = f_h . f_i / (|f_h| |f_i| + shrink), but 0 beyond the knn_k largest, that of h included

    An item that lacks a modality is compared by the others; one that lacks all has no neighbours.
    """

    def weights(self, config) -> list[sp.csr_array]:
        """S."""
        return [similarity_matrix(*content_neighbours(self.data, config["knn_k"], config["shrink"]))]

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """That of the listed scores."""
        return memory_of_lists(config, config["knn_k"])


def similarity_matrix(indices: np.ndarray, similarities: np.ndarray) -> sp.csr_array:
    """Lists ``(n_items, k)`` as a sparse matrix, whose rows are the items that have the lists."""
    n_items, k = indices.shape
    starts = np.arange(0, n_items * k + 1, k)
    return sp.csr_array((similarities.ravel(), indices.ravel(), starts), shape=(n_items, n_items))


def content_neighbours(
    data: TrainingData, k: int, shrink: float, modality: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each item the ``k`` items of largest similarity, as :class:`ItemKNNCBF` defines it, and these similarities.

    Both are ``(n_items, k)``; a similarity of 0 stands where there is no neighbour. Memory is linear in the items.

    Args:
        modality: items are compared by this one alone, and no item is its own neighbour.
    """
    key: dict[str, object] = {"k": int(k), "shrink": float(shrink), "version": _SEARCH_VERSION}
    if modality is not None:
        key["modality"] = modality
    arrays = data.kept("content-neighbours", key, lambda: _search(data, k, shrink, modality))
    return arrays["indices"], arrays["similarities"]


def _search(data: TrainingData, k: int, shrink: float, modality: str | None) -> dict[str, np.ndarray]:
    names = data.modalities if modality is None else [modality]
    n_items, k = data.n_items, min(k, data.n_items)
    found = {
        "indices": np.zeros((n_items, k), dtype=np.int32),
        "similarities": np.zeros((n_items, k), dtype=np.float32),
    }
    width = sum(data.features(m).shape[1] for m in names)
    in_memory = all(data.in_memory(m) for m in names)
    # what is in memory is compared with all items at once; rows on disk are read in square blocks
    columns = n_items if in_memory else min(int(_BLOCK_VALUES**0.5), max(1, _BLOCK_VALUES // width))
    starts = range(0, n_items, max(1, min(columns, _BLOCK_VALUES // columns)))
    for start in tqdm(starts, desc="content neighbours", disable=not data.shows_progress or len(starts) < 2, delay=2):
        rows = slice(start, min(start + starts.step, n_items))
        own = _joined(data, names, rows)
        best = LargestSoFar(len(own), k)
        for first, others in _blocks(data, names, columns):
            similarity = own @ others.T
            scale = torch.outer(own.norm(dim=1), others.norm(dim=1)).add_(shrink)
            similarity.div_(scale.clamp_min_(torch.finfo(scale.dtype).tiny))
            if modality is not None:
                diagonal = max(start, first), min(rows.stop, first + len(others))
                itself = torch.arange(diagonal[0], max(diagonal))
                similarity[itself - start, itself - first] = -torch.inf
            best.add(similarity, first)
        found["indices"][rows] = best.columns.numpy()
        found["similarities"][rows] = best.values.nan_to_num_(neginf=0.0).numpy()
    return found


def _blocks(data: TrainingData, names: Sequence[str], step: int) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, data.n_items, step):
        yield first, _joined(data, names, slice(first, min(first + step, data.n_items)))


def _joined(data: TrainingData, names: Sequence[str], rows: slice) -> Tensor:
    """Features of some items, the modalities side by side; zeros for those that an item lacks."""
    parts = [data.features(m)[rows] * data.present(m)[rows, None] for m in names]
    return torch.from_numpy(np.concatenate(parts, axis=1))
