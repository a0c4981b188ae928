"""Recompute a file of golden numbers with our model and measure the difference of every array in it.

A file holds data, parameters, a batch, and what a published implementation computed from them. Its keys tell what an
array is: :data:`INPUTS` and those that the model's adapter adds are inputs, everything else is a result to reproduce.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import get_model
from torch import Tensor

import recbole_mambarec  # noqa: F401  (RecBole's look-ups must know our models)
from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.testing.data import InMemoryDataset, batch, model_config
from recbole_mambarec.testing.parity.adapter import Adapter, Run, TrainingPass, adapter_of
from recbole_mambarec.testing.parity.recorded import calls_of, recorded

# those of the README of the golden files
OUTPUT_TOLERANCE = 2e-5
GRADIENT_SHARE = 1e-5

# what the published code was given or drew at random, in files of any model
INPUTS = (
    *("config", "data/*", "batch_*", "param/*"),
    *("dropout/rate*", "dropout/mask_*", "noise/draw_*", "prune/rate", "prune/kept_edges"),
    *("user_graph/index", "club/perm_*", "edges/rate", "edges/draw", "edges/order"),
)


# letters in the names of lists of items that lack a modality, ``data/missing_<letters>``
_MODALITIES = {"v": "image", "t": "text", "a": "audio"}


def _place(modality: str) -> int:
    """Where a modality stands among those of a model: image, text, audio, others."""
    known = list(_MODALITIES.values())
    return known.index(modality) if modality in known else len(known)


@dataclass(frozen=True)
class Result:
    """One array: the largest absolute difference, the tolerance, and the reason where it could not be compared."""

    quantity: str
    error: float
    allowed: float
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Within the tolerance; a NaN is not."""
        return bool(self.error <= self.allowed)

    @property
    def share(self) -> float:
        """The error as a share of the tolerance; infinite where the arrays could not be compared."""
        if np.isnan(self.error):
            return np.inf
        return self.error / self.allowed if self.allowed else np.inf if self.error else 0.0


def _read(path: str | Path, only: tuple[str, ...] | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays (of the names ``only``) and description of a golden file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in (only or stored.files)}
        meta = json.loads(str(arrays["config"]))
        if not (isinstance(meta["model"], str) and isinstance(meta["config"], dict)):
            raise ValueError("its config names no model")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no readable file of golden numbers ({error})") from None
    return arrays, meta


def model_of(path: str | Path) -> str:
    """The model that a golden file is about.

    Raises:
        UserError: the file cannot be read.
    """
    return _read(path, only=("config",))[1]["model"]


def reference_of(path: str | Path) -> str:
    """The code that computed a golden file, ``owner/repository@commit``; empty where the file does not say.

    Raises:
        UserError: the file cannot be read.
    """
    return str(_read(path, only=("config",))[1].get("reference", ""))


class Fixture:
    """A golden file and the model built from it.

    Args:
        path: the file.
        find: name of the published model -> its adapter.

    Raises:
        NoAdapter: the file is about a model that ``find`` does not know.
        UserError: the file cannot be read, or has a hyper-parameter that is none of the model's keys.
    """

    def __init__(self, path: str | Path, find: Callable[[str], Adapter] = adapter_of) -> None:
        self.path = Path(path)
        self.arrays, self.meta = _read(path)
        self.model_name, self.published = self.meta["model"], self.meta["config"]
        self.adapter = find(self.model_name)
        self.config = self.adapter.config({k: v for k, v in self.published.items() if k not in self.adapter.unused})
        if issubclass(get_model(self.model_name), MultimodalRecommender):
            known = default_properties("overall") | default_properties("model", self.model_name)
            unknown = ", ".join(sorted(self.config.keys() - known.keys()))
            if unknown:
                raise UserError(f"{path}: {self.model_name} has no key {unknown}: name it in the model's adapter")

    def dataset(self) -> InMemoryDataset:
        """The file's training interactions and features."""
        rows = self.arrays["data/interactions"]
        rows = rows[rows[:, 2] == 0]
        features = {
            key[len("data/") : -len("_feat")]: self.arrays[key].copy()
            for key in self.keys("data/")
            if key.endswith("_feat")
        }
        # models are built in this order, whatever that of the file's arrays
        features = {m: features[m] for m in sorted(features, key=_place)}
        for key in self.keys("data/missing_"):
            kind = key[len("data/missing_") :]
            for modality in features if kind == "all" else (_MODALITIES[letter] for letter in kind):
                features[modality][self.arrays[key]] = np.nan
        return InMemoryDataset(rows[:, 0], rows[:, 1], self.meta["n_users"], self.meta["n_items"], features)

    def build(self, **overrides) -> AbstractRecommender:
        """A fresh model with the file's configuration and parameters."""
        config = model_config(self.model_name, **(self.config | overrides))
        model = get_model(self.model_name)(config, self.dataset())
        self.adapter.prepare(model, self)
        if self.keys("param/"):
            left = {name for name, _ in model.named_parameters()} - self.load(model, "param/")
            if left:
                raise UserError(f"{self.path} has no values for {', '.join(sorted(left))} of {self.model_name}")
        return model

    def losses(self, model: AbstractRecommender) -> dict[str, Tensor]:
        """The parts of the model's loss for the file's batch."""
        losses = model.calculate_loss(self.batch())
        parts = dict(zip(model.loss_names, losses)) if isinstance(losses, tuple) else {"loss": losses}
        return parts | self.adapter.missing_loss(model, self.batch(), self.config)

    def scores(self, model: AbstractRecommender) -> Tensor:
        """Scores of all users for all items in evaluation mode, ``(U, I)``."""
        n_users, n_items = self.meta["n_users"], self.meta["n_items"]
        with torch.no_grad():
            scores = model.eval().full_sort_predict({"user_id": torch.arange(1, n_users + 1)})
        return self.adapter.scores(scores.view(n_users, n_items + 1)[:, 1:])

    def load(self, model: AbstractRecommender, prefix: str) -> set[str]:
        """Copy the file's arrays under ``prefix`` into the model.

        Returns:
            The names of the model's tensors that got a value.

        Raises:
            UserError: the adapter has no slot for an array, or its shape does not fit.
        """
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        slots = self.adapter.slots(model)
        filled = set()
        for key in self.keys(prefix):
            name = key[len(prefix) :]
            if name not in slots:
                raise UserError(f"{self.path}: {self.model_name}'s adapter has no slot for {name}")
            slot = slots[name]
            if slot is None:
                continue
            values, target = torch.as_tensor(self.arrays[key]), slot.of(state[slot.name].data)
            if values.squeeze().shape != target.squeeze().shape:
                raise UserError(f"{self.path}: {key} is {tuple(values.shape)}, {slot.name} {tuple(target.shape)}")
            target.copy_(values.reshape(target.shape))
            filled.add(slot.name)
        return filled

    def keys(self, prefix: str) -> list[str]:
        """Keys of the file under ``prefix``."""
        return [key for key in self.arrays if key.startswith(prefix)]

    def batch(self) -> dict[str, Tensor]:
        """The file's batch in RecBole's ids."""
        return batch(*(self.arrays[f"batch_{name}"] for name in ("users", "pos", "neg")))

    def is_input(self, key: str) -> bool:
        """``key`` is something that the published code was given or drew."""
        return any(fnmatchcase(key, pattern) for pattern in (*INPUTS, *self.adapter.inputs))


def check(path: str | Path, find: Callable[[str], Adapter] = adapter_of) -> list[Result]:
    """Compare every result of a file.

    Raises:
        NoAdapter: the file is about a model that ``find`` does not know.
        UserError: the file is unreadable, or does not fit the adapter of its model.
    """
    fixture = Fixture(path, find)
    arrays = fixture.arrays
    computed = dict(_evaluation(fixture))
    passes = [key[: -len("/loss")] for key in arrays if re.fullmatch(r"[^/]+/loss", key)]
    unwanted: dict[str, float] = {}
    for prefix in passes:
        run = _run_of(fixture, prefix)
        if run is not None:
            model = _train(fixture, prefix, run, computed)
            unwanted |= _gradients_of_untrained(fixture, model) if prefix == "train" else {}
    computed.update(fixture.adapter.results(fixture.build(), fixture))

    results = []
    for key, golden in arrays.items():
        if fixture.is_input(key):
            continue
        if key not in computed:
            # a result that is not recomputed is a failure
            results.append(Result(key, float("nan"), 0.0, "nothing recomputes it"))
            continue
        ours = computed[key]
        ours = ours.detach() if isinstance(ours, Tensor) else ours
        golden, ours = (np.asarray(values, dtype=np.float64) for values in (golden, ours))
        if golden.squeeze().shape != ours.squeeze().shape:
            results.append(Result(key, float("nan"), 0.0, f"its shape is {golden.shape}, ours {ours.shape}"))
            continue
        known_noise = max((n for p, n in fixture.adapter.noise.items() if fnmatchcase(key, p)), default=0.0)
        allowed = (OUTPUT_TOLERANCE + known_noise) * np.abs(golden).max(initial=0.0)
        gradient = re.match(r"(?:[^/]+/)?grad/", key)
        if gradient:
            largest = max(np.abs(arrays[other]).max() for other in fixture.keys(gradient[0]))
            allowed += (GRADIENT_SHARE + known_noise) * largest
        error = np.abs(ours.reshape(golden.shape) - golden).max(initial=0.0)
        results.append(Result(key, float(error), float(allowed)))
    return results + [Result(f"params_without_grad/{name}", error, 0.0) for name, error in unwanted.items()]


def _evaluation(fixture: Fixture) -> Iterator[tuple[str, object]]:
    """Scores and embeddings in evaluation mode."""
    if not fixture.keys("eval/"):
        return
    model = fixture.build().eval()
    if fixture.keys("eval/user_embeddings"):
        with torch.no_grad():
            users, items = fixture.adapter.embeddings(model)
        yield "eval/user_embeddings", users[1:].detach()
        yield "eval/item_embeddings", items[1:].detach()
    yield "eval/scores", fixture.scores(model)


def _run_of(fixture: Fixture, prefix: str) -> Run | None:
    """How to repeat the pass of a prefix; ``train_bs<n>`` is the plain one with another configured batch size."""
    runs = {"train": Run()} | dict(fixture.adapter.runs)
    size = re.fullmatch(r"train_bs(\d+)", prefix)
    if prefix in runs or size is None:
        return runs.get(prefix)
    return Run(lambda fixture: {"train_batch_size": int(size[1])}, runs["train"].change, runs["train"].draws)


def _train(fixture: Fixture, prefix: str, run: Run, computed: dict[str, object]) -> AbstractRecommender:
    """One training pass: adds loss, parts and gradients to ``computed``; returns the model with its gradients."""

    def forward(**settings) -> tuple[AbstractRecommender, dict[str, Tensor]]:
        model = fixture.build(**(run.settings(fixture) | settings)).train()
        run.change(model, fixture)
        with recorded(run.draws(fixture)):
            return model, fixture.losses(model)

    with calls_of(fixture.adapter.watched) as calls:
        model, parts = forward()
    loss = cast(Tensor, sum(parts.values()))
    loss.backward()
    computed[f"{prefix}/loss"] = loss.item()
    numbers = {name: part.item() for name, part in parts.items()}
    made = TrainingPass(model, fixture.config, fixture.batch(), numbers, calls, lambda key: forward(**{key: 1.0})[1])
    for name, compute in fixture.adapter.parts.items():
        value = compute(made)
        value = value.detach() if isinstance(value, Tensor) else value
        # under train_bs32/ parts are stored without the folder part/
        computed[f"{prefix}/part/{name}"] = computed[f"{prefix}/{name}"] = value

    parameters = dict(model.named_parameters())
    folder = "grad" if prefix == "train" else f"{prefix}/grad"
    for name, slot in fixture.adapter.slots(model).items():
        if slot is not None and slot.name in parameters:
            # what a weight of 0 takes out of the loss has no gradient here and one of 0 there
            parameter = parameters[slot.name]
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            computed[f"{folder}/{name}"] = slot.of(gradient)
    return model


def _gradients_of_untrained(fixture: Fixture, model: AbstractRecommender) -> dict[str, float]:
    """Our largest gradient of each parameter that gets no gradient in the published code."""
    parameters, slots = dict(model.named_parameters()), fixture.adapter.slots(model)
    largest = {}
    for name in fixture.meta.get("params_without_grad", []):
        slot = slots.get(name)
        gradient = parameters[slot.name].grad if slot is not None and slot.name in parameters else None
        largest[name] = 0.0 if gradient is None else slot.of(gradient).abs().max().item()
    return largest
