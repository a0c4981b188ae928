"""What the runner has to know about a model: how the published code's names map to ours."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec import registry
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.parity.recorded import Call

if TYPE_CHECKING:
    from recbole_mambarec.testing.parity.runner import Fixture


@dataclass(frozen=True)
class Slot:
    """Where our model has a parameter of the published code: a parameter or buffer, or some of its rows.

    ``transposed``: the published code has the transposed matrix.
    """

    name: str
    rows: slice = field(default_factory=lambda: slice(None))
    transposed: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """The part of ``tensor`` (a view), as the published code has it."""
        part = tensor[self.rows] if tensor.ndim else tensor
        return part.T if self.transposed else part


@dataclass(frozen=True)
class TrainingPass:
    """One computation of the loss of the file's batch.

    Attributes:
        model: after the backward pass, with its gradients.
        config: hyper-parameters of the file under our keys.
        batch: in RecBole's ids.
        parts: our weighted loss parts by name.
        calls: name of a watched function -> its calls.
        with_weight_1: key of a weight -> the parts where it is 1, computed anew.
    """

    model: AbstractRecommender
    config: dict
    batch: dict[str, Tensor]
    parts: dict[str, float]
    calls: dict[str, list[Call]]
    with_weight_1: Callable[[str], dict[str, Tensor]]

    def unweighted(self, part: str, weight: str) -> float:
        """One of our loss parts without its weight, the value of the key ``weight``."""
        value = self.config[weight]
        return self.parts[part] / value if value else self.with_weight_1(weight)[part].item()


@dataclass(frozen=True)
class Run:
    """How to repeat the published code's training pass of one prefix.

    Attributes:
        settings: file -> configuration keys that differ.
        change: (fresh model, file) -> nothing; puts the model into the state of the run, e.g. gives it another graph.
        draws: file -> what dropout and ``torch.rand`` return, in our order (see
            :func:`~recbole_mambarec.testing.parity.recorded.recorded`).
    """

    settings: Callable[[Fixture], dict] = lambda fixture: {}
    change: Callable[[AbstractRecommender, Fixture], object] = lambda model, fixture: None
    draws: Callable[[Fixture], Iterable] = lambda fixture: ()


@dataclass(frozen=True)
class Adapter:
    """What the runner has to know about a model.

    Attributes:
        slots: model -> published parameter name -> :class:`Slot`; None for one that the published code never uses.
        config: hyper-parameters of the file -> our configuration keys.
        unused: hyper-parameters of the file that affect none of its numbers, with the reason.
        parts: published loss part -> function that computes it from a :class:`TrainingPass`.
        watched: functions whose calls ``parts`` need, by the names under which the calling modules look them up.
        runs: prefix of the file -> how to repeat that training pass; ``train`` too, where it is not the plain one.
        results: (model, file) -> pairs of a result's key and our value for it, beyond those that every model has.
        prepare: changes a fresh model before the parameters are loaded, e.g. replaces its random draws.
        embeddings: model -> final embeddings of users and items, padding row first.
        scores: our scores -> published ones.
        missing_loss: (model, batch, configuration) -> terms of the published loss that the model deliberately lacks.
        inputs: keys that only this model's files have and that are no results, as patterns of ``fnmatch``.
        noise: patterns of results that are the small difference of large numbers, computed in float32 in the published
            code -> their relative error, added to what is allowed.
    """

    slots: Callable[[AbstractRecommender], dict[str, Slot | None]]
    config: Callable[[dict], dict] = dict
    unused: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Callable[[TrainingPass], object]] = field(default_factory=dict)
    watched: tuple[str, ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)
    results: Callable[[AbstractRecommender, Fixture], Iterator[tuple[str, object]]] = lambda model, fixture: iter(())
    prepare: Callable[[AbstractRecommender, Fixture], object] = lambda model, fixture: None
    embeddings: Callable[[AbstractRecommender], tuple[Tensor, Tensor]] = lambda model: model.scored_embeddings()
    scores: Callable[[Tensor], Tensor] = lambda scores: scores
    missing_loss: Callable[[AbstractRecommender, dict, dict], dict[str, Tensor]] = lambda model, batch, config: {}
    inputs: tuple[str, ...] = ()
    noise: Mapping[str, float] = field(default_factory=dict)


class NoAdapter(UserError):
    """There is no adapter for the model of a file."""


# a model's adapter is the attribute ADAPTER of the module in this package that has the model's name in lower case
_OURS = "recbole_mambarec.testing.parity.adapters"


def adapter_of(model: str) -> Adapter:
    """The adapter of a published model: one of ours, or the one that a model from outside was registered with.

    Raises:
        NoAdapter: there is none.
        UserError: the package that brings the model cannot be imported.
    """
    if model in registry.names() and model not in registry.built_in():
        path = registry.entry(model).adapter
        if path is None:
            raise NoAdapter(f"{model} was registered without an adapter")
        return registry.load(model, path)
    name = f"{_OURS}.{model.lower()}"
    if importlib.util.find_spec(name) is None:
        if model in registry.built_in():
            raise NoAdapter(f"{model} is a design of its own: there is no published code to compare it with")
        raise NoAdapter(f"this package has no {model}")
    return importlib.import_module(name).ADAPTER


def models_with_adapter() -> set[str]:
    """Names of our modules that hold an adapter: models in lower case."""
    found = (module.name for module in pkgutil.iter_modules(importlib.import_module(_OURS).__path__))
    return {name for name in found if hasattr(importlib.import_module(f"{_OURS}.{name}"), "ADAPTER")}
