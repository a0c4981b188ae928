"""Recompute a file of golden numbers with our model and measure the difference of every array in it.

A file holds data, parameters, a batch, and what a published implementation made of them. Its keys say what an array is:
``data/``, ``batch_*`` and ``param/`` are inputs, everything else is a result to reproduce.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from recbole.utils import get_model
from torch import Tensor, nn

import recbole_mambarec  # noqa: F401  (RecBole's look-ups must know our models)
from recbole_mambarec.errors import UserError
from tests.helpers import InMemoryDataset, batch, model_config

# published in the README of the golden files
OUTPUT_TOLERANCE = 2e-5
GRADIENT_SHARE = 1e-5


@dataclass(frozen=True)
class Slot:
    """Where a parameter of the published code lives in our model: a tensor of the state, or part of its first axis.

    ``transposed``: the published code has the matrix the other way round.
    """

    name: str
    rows: slice = field(default_factory=lambda: slice(None))
    transposed: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """The part of ``tensor`` (a view), as the published code has it."""
        part = tensor[self.rows] if tensor.ndim else tensor
        return part.T if self.transposed else part


@dataclass(frozen=True)
class Adapter:
    """What the runner must know of one model.

    Attributes:
        config: configuration of the file -> our configuration keys.
        slots: model -> published parameter name -> :class:`Slot`; None for one that the published code never uses.
        results: (model, fixture) -> pairs of a result's key and our value for it, beyond those every model has.
        part_names: published loss part -> function of our (weighted) parts and configuration that gives it.
        prepare: takes the chance out of a fresh model where the published numbers were made without it.
        embeddings: model -> final embeddings of users and items, padding row first.
        scores: our scores -> published ones.
        missing_loss: (model, batch, configuration) -> terms of the published loss that the model lacks by definition.
    """

    config: Callable[[dict], dict]
    slots: Callable[[nn.Module], dict[str, Slot | None]]
    results: Callable[[nn.Module, Fixture], Iterator[tuple[str, object]]]
    part_names: dict[str, Callable[[dict, dict], object]]
    prepare: Callable[[nn.Module], object] = lambda model: None
    embeddings: Callable[[nn.Module], tuple[Tensor, Tensor]] = lambda model: model.scored_embeddings()
    scores: Callable[[Tensor], Tensor] = lambda scores: scores
    missing_loss: Callable[[nn.Module, dict, dict], dict[str, Tensor]] = lambda model, batch, config: {}


@dataclass(frozen=True)
class Result:
    """One compared array: the largest absolute difference and what is allowed."""

    quantity: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Within the tolerance; a NaN is not."""
        return bool(self.error <= self.allowed)


class Fixture:
    """A golden file and the model built from it."""

    def __init__(self, path: str | Path, adapters: dict[str, Adapter]) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                self.arrays = {key: stored[key] for key in stored.files}
            self.meta = json.loads(str(self.arrays["config"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is no readable file of golden numbers ({error})") from None
        self.model_name = self.meta["model"]
        if self.model_name not in adapters:
            known = ", ".join(sorted(adapters))
            raise UserError(f"{path} is about {self.model_name}, for which no adapter exists: there are {known}")
        self.adapter = adapters[self.model_name]
        self.config = self.adapter.config(self.meta["config"])

    def dataset(self) -> InMemoryDataset:
        """The file's training interactions and features."""
        rows = self.arrays["data/interactions"]
        rows = rows[rows[:, 2] == 0]
        features = {key[len("data/") : -len("_feat")]: self.arrays[key] for key in self.arrays if key.endswith("_feat")}
        return InMemoryDataset(rows[:, 0], rows[:, 1], self.meta["n_users"], self.meta["n_items"], features)

    def build(self, **overrides) -> nn.Module:
        """A fresh model with the file's configuration and parameters."""
        config = model_config(self.model_name, **(self.config | overrides))
        model = get_model(self.model_name)(config, self.dataset())
        self.load(model, "param/")
        self.adapter.prepare(model)
        return model

    def losses(self, model: nn.Module) -> dict[str, Tensor]:
        """The parts of the model's loss of the file's batch."""
        losses = model.calculate_loss(self.batch())
        parts = dict(zip(model.loss_names, losses)) if isinstance(losses, tuple) else {"loss": losses}
        return parts | self.adapter.missing_loss(model, self.batch(), self.config)

    def scores(self, model: nn.Module) -> Tensor:
        """Scores of all users for all items in evaluation mode, ``(U, I)``."""
        n_users, n_items = self.meta["n_users"], self.meta["n_items"]
        with torch.no_grad():
            scores = model.eval().full_sort_predict({"user_id": torch.arange(1, n_users + 1)})
        return self.adapter.scores(scores.view(n_users, n_items + 1)[:, 1:])

    def load(self, model: nn.Module, prefix: str) -> None:
        """Copy the file's arrays under ``prefix`` into the model; every one must have a place."""
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        slots = self.adapter.slots(model)
        for key in self.keys(prefix):
            slot = slots[key[len(prefix) :]]
            if slot is None:
                continue
            target = slot.of(state[slot.name].data)
            target.copy_(torch.as_tensor(self.arrays[key]).reshape(target.shape))

    def keys(self, prefix: str) -> list[str]:
        """Keys of the file under ``prefix``."""
        return [key for key in self.arrays if key.startswith(prefix)]

    def batch(self) -> dict[str, Tensor]:
        """The file's batch in RecBole's ids."""
        return batch(*(self.arrays[f"batch_{name}"] for name in ("users", "pos", "neg")))


def check(path: str | Path, adapters: dict[str, Adapter]) -> list[Result]:
    """Compare every result of a file.

    Raises:
        UserError: the file is unreadable or of a model without adapter.
    """
    fixture = Fixture(path, adapters)
    arrays = fixture.arrays
    computed = dict(_common_results(fixture))
    model = fixture.build()
    computed.update(fixture.adapter.results(model, fixture))

    largest_gradient = max((np.abs(arrays[key]).max() for key in fixture.keys("grad/")), default=0.0)
    results = []
    for key, golden in arrays.items():
        if key == "config" or key.startswith(("data/", "batch_", "param/", "dream/param/")) or key in INPUTS:
            continue
        if key not in computed:
            results.append(Result(key, float("nan"), 0.0))  # a result that nothing here recomputes is a failure
            continue
        golden = np.asarray(golden, dtype=np.float64)
        ours = np.asarray(computed[key], dtype=np.float64).reshape(golden.shape)
        allowed = OUTPUT_TOLERANCE * np.abs(golden).max()
        if key.startswith("grad/"):
            allowed += GRADIENT_SHARE * largest_gradient
        results.append(Result(key, float(np.abs(ours - golden).max()), float(allowed)))
    return results


# arrays that feed a result of another key
INPUTS = frozenset(
    ["mmd/x", "mmd/y", "infonce/alone_view1", "infonce/alone_view2", "prune/rate", "prune/kept_edges"]
    + [f"gumbel/noise_{modality}_{side}" for modality in ("image", "text") for side in ("item", "user")]
    + [f"dream/{shape}_x" for shape in ("vec", "map", "tallmap", "widemap", "seq")]
)


def _common_results(fixture: Fixture) -> Iterator[tuple[str, object]]:
    """Scores, embeddings, loss, its parts and the gradients, which every file has."""
    model = fixture.build().eval()
    with torch.no_grad():
        users, items = fixture.adapter.embeddings(model)
    yield "eval/user_embeddings", users[1:].detach()
    yield "eval/item_embeddings", items[1:].detach()
    yield "eval/scores", fixture.scores(model)

    model = fixture.build().train()
    parts = fixture.losses(model)
    loss = sum(parts.values())
    loss.backward()
    yield "train/loss", loss.item()
    for name, compute in fixture.adapter.part_names.items():
        yield f"train/part/{name}", compute({k: v.item() for k, v in parts.items()}, fixture.config)

    parameters = dict(model.named_parameters())
    for name, slot in fixture.adapter.slots(model).items():
        gradient = parameters[slot.name].grad if slot is not None and slot.name in parameters else None
        if gradient is not None:
            yield f"grad/{name}", slot.of(gradient)
