"""Random data in memory, and what else tests of models need."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.parity.dataset import InMemoryDataset, PlainConfig, batch, model_config

__all__ = ["InMemoryDataset", "PlainConfig", "Waits", "batch", "model_config", "posix", "random_dataset"]

posix = pytest.mark.skipif(os.name == "nt", reason="Windows ends processes in other ways")


def random_dataset(
    n_users: int = 30, n_items: int = 20, dims: dict[str, int] | None = None, seed: int = 0, on_disk: bool = False
) -> InMemoryDataset:
    """Every user with four random items, features drawn from a normal distribution."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), 4)
    items = np.concatenate([rng.choice(n_items, 4, replace=False) for _ in range(n_users)])
    dims = {"image": 12, "text": 7} if dims is None else dims
    features = {m: rng.normal(size=(n_items, d)).astype(np.float32) for m, d in dims.items()}
    return InMemoryDataset(users, items, n_users, n_items, features, on_disk)


class Waits(TorchDispatchMode):
    """Notes operations that make the CPU wait for a GPU: reading a value, and results whose size depends on values."""

    _names = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        # indexing with a mask looks for the places that are set
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in self._names or any(x is not None and x.dtype == torch.bool for x in indices):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))
