"""Random data of Amazon Baby's size; training and evaluation on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recbole_mambarec.ranking import HitCollector
from recbole_mambarec.testing.data import InMemoryDataset
from recbole_mambarec.testing.memory import parameters_by_optimizer


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


class Training:
    """A model with the optimizers that the trainer gives it.

    Args:
        model: of this package or of RecBole.
        ours: it is of this package.
    """

    def __init__(self, model: torch.nn.Module, ours: bool) -> None:
        self.model, self._ours = model.train(), ours
        trained = [p for p in model.parameters() if p.requires_grad]
        self._parameters = parameters_by_optimizer(model) if ours else {None: trained}
        fused = {"fused": True} if ours else {}
        self._optimizers = {name: torch.optim.Adam(own, lr=1e-3, **fused) for name, own in self._parameters.items()}
        self.parameters = self._parameters[None]

    def begin_epoch(self) -> None:
        """What is done before the first step of an epoch."""
        if self._ours:
            for name, loss in self.model.losses_before_epoch(0):
                self._descend(name, loss)
            self.model.pre_epoch(0)

    def step(self, interaction: dict[str, Tensor]) -> None:
        """One training step."""
        if self._ours:
            for name, loss in self.model.losses_before_step(*self.model.nodes_of(interaction)):
                self._descend(name, loss)
        self._descend(None, total_loss(self.model, interaction))

    def _descend(self, name: str | None, loss: Tensor) -> None:
        self._optimizers[name].zero_grad()
        loss.backward(inputs=self._parameters[name])
        self._optimizers[name].step()


@torch.no_grad()
def evaluate(model: torch.nn.Module, config: dict, dataset: InMemoryDataset) -> Tensor:
    """Rank all items but those of training for all users, each of whom has one item to find.

    Args:
        model: of this package or of RecBole.
        config: the configuration of the model, with its metrics.
        dataset: the training data.

    Returns:
        Which of the first items are hits, and the number of items to find, per user.
    """
    model.eval()
    n_items = dataset.num("item_id")
    collector, wanted = HitCollector(config), np.random.default_rng(1).integers(1, n_items, dataset.num("user_id"))
    order = np.argsort(dataset.users, kind="stable")
    known_users, known_items = (torch.from_numpy(ids[order] + 1) for ids in (dataset.users, dataset.items))
    for users in torch.arange(1, dataset.num("user_id")).split(max(1, config["eval_batch_size"] // n_items)):
        scores = model.full_sort_predict({"user_id": users}).view(len(users), n_items)
        first, last = torch.searchsorted(known_users, torch.stack([users[0], users[-1] + 1])).tolist()
        scores[known_users[first:last] - users[0], known_items[first:last]] = -torch.inf
        rows = torch.arange(len(users))
        collector.eval_batch_collect(scores, {}, rows, torch.from_numpy(wanted[users.numpy()]))
    return collector.get_data_struct().get("rec.topk")
