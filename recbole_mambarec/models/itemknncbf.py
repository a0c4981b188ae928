"""ItemKNNCBF: items whose features resemble those of a user's items; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from recbole.utils import InputType, ModelType
from torch import Tensor, nn
from tqdm import tqdm

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.neighbours import LargestSoFar
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender

# float32 similarities held at a time during the search (128 MiB)
_BLOCK_VALUES = 1 << 25
# raise it when the search changes, so that lists that are kept on disk are not taken for new ones
_SEARCH_VERSION = 1


class ItemKNNCBF(MultimodalRecommender):
    """Content-based item k-nearest-neighbours, as compared in "Are We Really Making Much Progress?" (RecSys 2019,
    arXiv 1907.06902) and provided by MMRec.

    With f_i the features of all modalities side by side, an item's score for a user is the sum of ``S_hi`` over the
    user's training items h; row h of S holds the k largest of ``f_h . f_i / (|f_h| |f_i| + shrink)``, that of h itself
    included. There is nothing to train: one epoch evaluates it.

    An item that lacks a modality is compared by the others; one that lacks all has no neighbours.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE
    min_modalities = 1
    pairs: Tensor
    values: Tensor
    starts: Tensor

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        data = self.data
        # optimizers refuse a model without parameters; no score depends on it
        self.placeholder = nn.Parameter(torch.zeros(2))
        similarities = similarity_matrix(*content_neighbours(data, config["knn_k"], config["shrink"]))
        scores = interaction_matrix(data.users, data.items, data.n_users, data.n_items) @ similarities
        scores.sort_indices()
        # RecBole's numbers of user and item in one, ascending; a user's entries lie between their start and the next
        users = np.repeat(np.arange(1, data.n_users + 1, dtype=np.int64), np.diff(scores.indptr))
        starts = np.concatenate([[0], scores.indptr]).astype(np.int64)
        pairs = users * self.n_items + scores.indices + 1
        self.longest = int(np.diff(starts).max())
        for name, array in (("pairs", pairs), ("values", scores.data), ("starts", starts)):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """That of the scores above zero, ``knn_k`` per training interaction: 12 bytes each, twice while they are made.

        No features are trained.
        """
        arrays = 24 * config["knn_k"] / (4 * config["embedding_size"])
        return StepMemory(users=(0, 0), items=(0, 0), edges=(arrays, 0), batch=(0, 0), tables=0)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """Zero."""
        return {"nothing": 0.0 * self.placeholder.sum()}

    def predict(self, interaction) -> Tensor:
        """Scores of user-item pairs, ``(B,)``."""
        wanted = interaction[self.USER_ID] * self.n_items + interaction[self.ITEM_ID]
        places = torch.searchsorted(self.pairs, wanted).clamp_max(len(self.pairs) - 1)
        return torch.where(self.pairs[places] == wanted, self.values[places], 0.0)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of each user for all items, flattened ``(B * n_items,)``; the padding item scores minus infinity."""
        users = interaction[self.USER_ID][:, None]
        # as many entries as the longest list has, so that no size depends on values
        places = self.starts[users] + torch.arange(self.longest, device=users.device)
        there = places < self.starts[users + 1]
        places = places.clamp_max(len(self.pairs) - 1)
        items = torch.where(there, self.pairs[places] - users * self.n_items, 0)
        scores = torch.zeros(len(users), self.n_items, device=users.device)
        scores.scatter_(1, items, self.values[places])
        scores[:, 0] = -torch.inf
        return scores.view(-1)


def similarity_matrix(indices: np.ndarray, similarities: np.ndarray) -> sp.csr_array:
    """Lists ``(n_items, k)`` as a sparse matrix, whose rows are the items that have the lists."""
    n_items, k = indices.shape
    starts = np.arange(0, n_items * k + 1, k)
    return sp.csr_array((similarities.ravel(), indices.ravel(), starts), shape=(n_items, n_items))


def content_neighbours(data: TrainingData, k: int, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """For each item the ``k`` items of largest similarity, as :class:`ItemKNNCBF` defines it, and these similarities.

    Both are ``(n_items, k)``; a similarity of 0 stands where there is no neighbour. Memory is linear in the items.
    """
    key = {"k": int(k), "shrink": float(shrink), "version": _SEARCH_VERSION}
    arrays = data.kept("content-neighbours", key, lambda: _search(data, k, shrink))
    return arrays["indices"], arrays["similarities"]


def _search(data: TrainingData, k: int, shrink: float) -> dict[str, np.ndarray]:
    n_items, k = data.n_items, min(k, data.n_items)
    found = {
        "indices": np.zeros((n_items, k), dtype=np.int32),
        "similarities": np.zeros((n_items, k), dtype=np.float32),
    }
    width = sum(data.features(m).shape[1] for m in data.modalities)
    in_memory = all(data.in_memory(m) for m in data.modalities)
    # what is in memory is compared with all items at once; rows on disk are read in square blocks
    columns = n_items if in_memory else min(int(_BLOCK_VALUES**0.5), max(1, _BLOCK_VALUES // width))
    starts = range(0, n_items, max(1, min(columns, _BLOCK_VALUES // columns)))
    for start in tqdm(starts, desc="content neighbours", disable=not data.shows_progress or len(starts) < 2, delay=2):
        rows = slice(start, min(start + starts.step, n_items))
        own = _joined(data, rows)
        best = LargestSoFar(len(own), k)
        for first, others in _blocks(data, columns):
            similarity = own @ others.T
            scale = torch.outer(own.norm(dim=1), others.norm(dim=1)).add_(shrink)
            similarity.div_(scale.clamp_min_(torch.finfo(scale.dtype).tiny))
            best.add(similarity, first)
        found["indices"][rows], found["similarities"][rows] = best.columns.numpy(), best.values.numpy()
    return found


def _blocks(data: TrainingData, step: int) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, data.n_items, step):
        yield first, _joined(data, slice(first, min(first + step, data.n_items)))


def _joined(data: TrainingData, rows: slice) -> Tensor:
    """Features of some items, all modalities side by side; zeros for those that an item lacks."""
    parts = [data.features(m)[rows] * data.present(m)[rows, None] for m in data.modalities]
    return torch.from_numpy(np.concatenate(parts, axis=1))
