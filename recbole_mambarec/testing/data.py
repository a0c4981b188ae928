"""Small data in memory, for examining a model without RecBole's files."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch

from recbole_mambarec.config import default_properties
from recbole_mambarec.data.modality import Modality
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.data.user_features import UserFeatures


class PlainConfig(dict):
    """A dictionary that answers like RecBole's ``Config``: an unset key is None."""

    def __missing__(self, key):
        return None


def model_config(model: str, **overrides) -> PlainConfig:
    """The default configuration of a model, with ``overrides`` on top."""
    fields = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "NEG_PREFIX": "neg_",
        "device": torch.device("cpu"),
    }
    return PlainConfig(fields, **(default_properties("overall") | default_properties("model", model) | overrides))


class InMemoryDataset:
    """The part of a dataset's interface that models use. Users and items are numbered from 0; RecBole's ids are one
    higher.

    Args:
        users, items: training interactions.
        n_users, n_items: real users and items.
        features: modality -> ``(n_items, dim)``; a NaN row lacks the modality.
        on_disk: treat the features as too large for the memory.
        user_features: columns of the users.
    """

    def __init__(
        self,
        users,
        items,
        n_users: int,
        n_items: int,
        features: dict[str, np.ndarray],
        on_disk: bool = False,
        user_features: UserFeatures | None = None,
    ) -> None:
        self.users, self.items = np.asarray(users), np.asarray(items)
        self.n_users, self.n_items = n_users, n_items
        self.user_features = user_features
        tokens = np.array([str(i) for i in range(n_items)], dtype=object)
        ids = {token: i + 1 for i, token in enumerate(tokens)}
        self.item_features = {
            name: Modality(name, np.asarray(matrix), tokens).align(ids, n_items + 1, 0 if on_disk else math.inf)
            for name, matrix in features.items()
        }

    def num(self, field: str) -> int:
        """Users or items, padding included."""
        return (self.n_users if field == "user_id" else self.n_items) + 1

    def inter_matrix(self, form: str = "coo") -> sp.coo_matrix:
        """The interactions in RecBole's ids, for RecBole's own models."""
        shape = (self.n_users + 1, self.n_items + 1)
        return sp.coo_matrix((np.ones(len(self.users)), (self.users + 1, self.items + 1)), shape=shape).asformat(form)

    def training_data(self) -> TrainingData:
        """As :meth:`MultimodalDataset.training_data`."""
        return TrainingData(
            self.users, self.items, self.n_users, self.n_items, self.item_features, user_features=self.user_features
        )


def batch(users, positives, negatives) -> dict[str, torch.Tensor]:
    """A training batch in RecBole's ids from node numbers."""
    named = {"user_id": users, "item_id": positives, "neg_item_id": negatives}
    return {name: torch.as_tensor(np.asarray(values)) + 1 for name, values in named.items()}


def random_dataset(
    n_users: int = 30, n_items: int = 20, dims: dict[str, int] | None = None, seed: int = 0, on_disk: bool = False
) -> InMemoryDataset:
    """Every user has four random items; features are drawn from a normal distribution.

    Args:
        dims: modality -> width of its features; ``image`` with 12 and ``text`` with 7 by default.
        on_disk: see :class:`InMemoryDataset`.
    """
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), 4)
    items = np.concatenate([rng.choice(n_items, 4, replace=False) for _ in range(n_users)])
    dims = {"image": 12, "text": 7} if dims is None else dims
    features = {m: rng.normal(size=(n_items, d)).astype(np.float32) for m, d in dims.items()}
    return InMemoryDataset(users, items, n_users, n_items, features, on_disk)
