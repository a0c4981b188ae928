"""What the runner must know of one model: how the published code's names map to ours."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from recbole_mambarec import registry
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.parity.recorded import Call

if TYPE_CHECKING:
    from recbole_mambarec.testing.parity.runner import Fixture


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
class TrainingPass:
    """One loss of the file's batch: the model, its configuration, the weighted parts, and the calls of watched
    functions."""

    model: nn.Module
    config: dict
    batch: dict[str, Tensor]
    parts: dict[str, float]
    calls: dict[str, list[Call]]


@dataclass(frozen=True)
class Run:
    """How the published code's training pass of one prefix is made again.

    Attributes:
        settings: file -> configuration keys that differ.
        change: (fresh model, file) -> nothing; brings the model into the state of the run, e.g. gives it another graph.
        draws: file -> what dropout and ``torch.rand`` give, in our order (see
            :func:`~recbole_mambarec.testing.parity.recorded.recorded`).
    """

    settings: Callable[[Fixture], dict] = lambda fixture: {}
    change: Callable[[nn.Module, Fixture], object] = lambda model, fixture: None
    draws: Callable[[Fixture], Iterable] = lambda fixture: ()


@dataclass(frozen=True)
class Adapter:
    """What the runner must know of one model.

    Attributes:
        slots: model -> published parameter name -> :class:`Slot`; None for one that the published code never uses.
        config: hyper-parameters of the file -> our configuration keys.
        unused: hyper-parameters of the file that change none of its numbers, with the reason.
        parts: published loss part -> function of a :class:`TrainingPass` that gives it.
        watched: functions whose calls ``parts`` need, as the module that calls them names them.
        runs: prefix of the file -> how that training pass is made; ``train`` too, where it is not the plain one.
        results: (model, file) -> pairs of a result's key and our value for it, beyond those every model has.
        prepare: changes a fresh model before the parameters are loaded, e.g. takes the chance out of it.
        embeddings: model -> final embeddings of users and items, padding row first.
        scores: our scores -> published ones.
        missing_loss: (model, batch, configuration) -> terms of the published loss that the model lacks by choice.
        inputs: keys that only this model's files have and that are no results, as patterns of ``fnmatch``.
    """

    slots: Callable[[nn.Module], dict[str, Slot | None]]
    config: Callable[[dict], dict] = dict
    unused: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Callable[[TrainingPass], object]] = field(default_factory=dict)
    watched: tuple[str, ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)
    results: Callable[[nn.Module, Fixture], Iterator[tuple[str, object]]] = lambda model, fixture: iter(())
    prepare: Callable[[nn.Module, Fixture], object] = lambda model, fixture: None
    embeddings: Callable[[nn.Module], tuple[Tensor, Tensor]] = lambda model: model.scored_embeddings()
    scores: Callable[[Tensor], Tensor] = lambda scores: scores
    missing_loss: Callable[[nn.Module, dict, dict], dict[str, Tensor]] = lambda model, batch, config: {}
    inputs: tuple[str, ...] = ()


class NoAdapter(UserError):
    """Nothing here computes what the files of a model hold."""


# the adapter of a model is the attribute ADAPTER of the module there that has the model's name in lower case
_OURS = "recbole_mambarec.testing.parity.adapters"


def adapter_of(model: str) -> Adapter:
    """The adapter of a published model: one of ours, or what a model from outside was registered with.

    Raises:
        NoAdapter: there is none; a module of ours without ADAPTER may say why in its attribute REASON.
        UserError: the package that brings the model cannot be imported.
    """
    if model in registry.names() and model not in registry.built_in():
        path = registry.entry(model).adapter
        if path is None:
            raise NoAdapter(f"{model} was registered without an adapter")
        return registry.load(model, path)
    name = f"{_OURS}.{model.lower()}"
    if importlib.util.find_spec(name) is None:
        raise NoAdapter(f"this package has no {model}")
    module = importlib.import_module(name)
    if not hasattr(module, "ADAPTER"):
        raise NoAdapter(module.REASON)
    return module.ADAPTER


def models_with_adapter() -> set[str]:
    """Names of our modules that hold an adapter: models in lower case."""
    found = (module.name for module in pkgutil.iter_modules(importlib.import_module(_OURS).__path__))
    return {name for name in found if hasattr(importlib.import_module(f"{_OURS}.{name}"), "ADAPTER")}
