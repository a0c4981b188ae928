"""What models share that are computed in one pass: an item's score is a sum over the user's training items."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from logging import getLogger
from operator import add
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.layers.containers import ModuleList
from recbole_mambarec.layers.listed_scores import ListedScores
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender

# weights that are gathered at a time for the scores of single pairs (64 MiB)
_GATHERED_VALUES = 1 << 24


class Factors(NamedTuple):
    """A matrix of weights as a product: ``W = source @ target.T``, float32 ``(n_items, width)`` each."""

    source: np.ndarray
    target: np.ndarray


Weights: TypeAlias = "np.ndarray | sp.csr_array | Factors"


class ItemToItem(MultimodalRecommender):
    """Base of models that score item i for a user with the sum of ``W_hi`` over the user's training items h.

    W follows from the data: it is computed when the model is built, also when a checkpoint is loaded, and no part of a
    checkpoint. There is nothing to train, so the one epoch only evaluates the model. Subclasses define :meth:`weights`.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE
    min_modalities = 1
    cold_scale_of: str | None = None

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        # optimizers refuse a model without parameters; no score depends on it
        self.placeholder = nn.Parameter(torch.zeros(2))
        started = time.perf_counter()
        self.summands = Summands(self.weights(config), self.data)
        # what RecBole reports as training is empty
        seconds = time.perf_counter() - started
        getLogger().info(f"{type(self).__name__} was computed in {seconds:.1f} s; there is nothing to train")

    @abstractmethod
    def weights(self, config) -> Sequence[Weights]:
        """Matrices whose sum is W, ``(n_items, n_items)``, float32: dense, sparse or as factors."""

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """Zero."""
        return {"nothing": 0.0 * self.placeholder.sum()}

    def predict(self, interaction) -> Tensor:
        """Scores of user-item pairs, ``(B,)``."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return self.with_cold_users(self.summands.of_pairs(users, items), users, items)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of each user for all items, flattened ``(B * n_items,)``; the padding item scores minus infinity."""
        users = interaction[self.USER_ID]
        scores = self.with_cold_users(self.summands.of_users(users), users)
        scores[:, 0] = -torch.inf
        return scores.view(-1)


def memory_of_lists(config, k: int) -> StepMemory:
    """Memory of the scores of sparse weights with ``k`` entries per row: ``k`` per training interaction.

    They take 12 bytes each, twice while they are made. No features are trained.
    """
    arrays = 24 * k / (4 * config["embedding_size"])
    return StepMemory(users=(0, 0), items=(0, 0), edges=(arrays, 0), batch=(0, 0), tables=0)


class Summands(ModuleList):
    """The scores that W gives, as the sum of what its parts give.

    Users and items have RecBole's numbers; the padding item's scores have no meaning.

    Args:
        weights: matrices whose sum is W.
        data: whose training interactions are the users' items.
    """

    def __init__(self, weights: Sequence[Weights], data: TrainingData) -> None:
        super().__init__(_scores_of(part, data) for part in weights)

    def of_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of user-item pairs, ``(B,)``."""
        return reduce(add, (part.of_pairs(users, items) for part in self))

    def of_users(self, users: Tensor) -> Tensor:
        """Scores of each user for all items, ``(B, n_items + 1)``."""
        return reduce(add, (part.of_users(users) for part in self))


def _scores_of(weights: Weights, data: TrainingData) -> _Scores | ListedScores:
    """The part of the scores that a matrix of weights gives."""
    history = data.history
    if isinstance(weights, Factors):
        return _FactoredScores(history, weights)
    if isinstance(weights, np.ndarray):
        return _DenseScores(history, weights)
    return ListedScores(history @ weights)


class _Scores(nn.Module):
    """A part of the scores; users and items have RecBole's numbers, and the padding item has no meaning."""

    @abstractmethod
    def of_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of user-item pairs, ``(B,)``."""

    @abstractmethod
    def of_users(self, users: Tensor) -> Tensor:
        """Scores of each user for all items, ``(B, n_items + 1)``."""


class _DenseScores(_Scores):
    """The scores that a dense matrix of weights gives; a user's training items are listed, and 0 fills the lists."""

    table: Tensor
    items: Tensor
    starts: Tensor

    def __init__(self, history: sp.csr_array, weights: np.ndarray) -> None:
        super().__init__()
        starts = np.concatenate([[0], history.indptr]).astype(np.int64)
        self.longest = int(np.diff(starts).max())
        table = np.pad(weights.astype(np.float32, copy=False), ((1, 0), (1, 0)))
        _keep(self, table=table, items=history.indices.astype(np.int64) + 1, starts=starts)

    def _history(self, users: Tensor) -> Tensor:
        users = users[:, None]
        places = self.starts[users] + torch.arange(self.longest, device=users.device)
        items = self.items[places.clamp_max(len(self.items) - 1)]
        return torch.where(places < self.starts[users + 1], items, 0)

    def of_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        step = max(1, _GATHERED_VALUES // self.longest)
        parts = [
            self.table[self._history(users[start : start + step]), items[start : start + step, None]].sum(dim=1)
            for start in range(0, len(users), step)
        ]
        return torch.cat(parts)

    def of_users(self, users: Tensor) -> Tensor:
        return F.embedding_bag(self._history(users), self.table, mode="sum", padding_idx=0)


class _FactoredScores(_Scores):
    """The scores that a product of two narrow matrices gives: a user is the sum of the sources of their items."""

    users: Tensor
    items: Tensor

    def __init__(self, history: sp.csr_array, weights: Factors) -> None:
        super().__init__()
        users, items = history @ weights.source, weights.target
        _keep(self, users=np.pad(users, ((1, 0), (0, 0))), items=np.pad(items, ((1, 0), (0, 0))))

    def of_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.users[users] * self.items[items]).sum(dim=1)

    def of_users(self, users: Tensor) -> Tensor:
        return self.users[users] @ self.items.T


def _keep(module: nn.Module, **arrays: np.ndarray) -> None:
    """Make the arrays buffers that follow the module to its device and are not saved."""
    for name, array in arrays.items():
        module.register_buffer(name, torch.from_numpy(array), persistent=False)
