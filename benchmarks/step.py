"""Random data of Amazon Baby's size, and one training step on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recbole_mambarec.testing.data import InMemoryDataset


@dataclass(frozen=True)
class Sizes:
    """Sizes to draw: users, items, training pairs (repeats allowed), pairs per batch, feature width per modality."""

    users: int = 19445
    items: int = 7050
    pairs: int = 118551
    batch: int = 2048
    widths: dict[str, int] = field(default_factory=lambda: {"image": 4096, "text": 384})


def draw(sizes: Sizes) -> tuple[InMemoryDataset, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A dataset, and the users, positive and negative items of a batch (numbered from 0)."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, sizes.users, sizes.pairs)
    items = rng.integers(0, sizes.items, sizes.pairs)
    features = {m: rng.standard_normal((sizes.items, d), dtype=np.float32) for m, d in sizes.widths.items()}
    dataset = InMemoryDataset(users, items, sizes.users, sizes.items, features)
    rows = rng.integers(0, sizes.pairs, sizes.batch)
    return dataset, (users[rows], items[rows], rng.integers(0, sizes.items, sizes.batch))


def total_loss(model: torch.nn.Module, interaction: dict[str, Tensor]) -> Tensor:
    """The loss of a RecBole model as one number; several terms are added up."""
    losses = model.calculate_loss(interaction)
    return sum(losses) if isinstance(losses, tuple) else losses


def step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """One training step; returns the loss before it."""
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    optimizer.step()
    return loss.item()
