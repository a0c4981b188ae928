"""How RecBole is patched: attributes are replaced or wrapped by name, and every replacement is on record.

The modules that hold patches use the functions below and nothing else to change RecBole, so that
:func:`recorded_targets` knows every attribute that has been replaced. A :class:`Patch` states which ones a function
is supposed to replace; the tests compare the two.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A function that patches something, with what it replaces and why.

    Attributes:
        function: ``module:function``. It takes no argument, and a second call changes nothing.
        targets: qualified names of everything that it replaces, such as ``recbole.trainer.trainer.Trainer.fit``.
            ``recbole.trainer.trainer.torch.load`` is what that one module sees as ``torch.load``.
        why: one sentence.
        process_wide: what other code in the process notices of it; empty where only code of RecBole is affected.
        condition: the versions for which the patch is needed; empty if it always applies.
    """

    function: str
    targets: tuple[str, ...]
    why: str
    process_wide: str = ""
    condition: str = ""

    def apply(self) -> None:
        """Import the module and call the function."""
        module, _, name = self.function.partition(":")
        getattr(importlib.import_module(module), name)()


def apply_all(patches: Iterable[Patch]) -> None:
    """Apply patches in their order."""
    for patch in patches:
        patch.apply()


_targets: dict[str, None] = {}


def recorded_targets() -> list[str]:
    """Qualified names of all attributes replaced so far, in the order in which each was first replaced."""
    return list(_targets)


def record(owner: type | types.ModuleType, *names: str) -> None:
    """Record that ``owner.name1.name2...`` is replaced; for what is changed in another way than below."""
    path = owner.__name__ if isinstance(owner, types.ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
    _targets[".".join((path, *names))] = None


def replace(owner: type | types.ModuleType, name: str, value: object) -> None:
    """Set ``owner.name``, an attribute of a module or a class."""
    record(owner, name)
    setattr(owner, name, value)


def wrap(owner: type | types.ModuleType, name: str, wrapper: Callable) -> None:
    """Make ``owner.name(*args)`` call ``wrapper(original, *args)``; doing so again has no effect."""
    record(owner, name)
    original = getattr(owner, name)
    if is_wrapped(original, wrapper):
        return

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    # functools.wraps has copied the wrappers below
    vars(wrapped)["_recbole_mambarec_wrappers"] = (*_wrappers(original), _identity(wrapper))
    setattr(owner, name, wrapped)


def is_wrapped(function: Callable, wrapper: Callable) -> bool:
    """Whether ``wrapper`` is among those that :func:`wrap` has put around ``function``."""
    return _identity(wrapper) in _wrappers(function)


def _wrappers(function: Callable) -> tuple[str, ...]:
    return getattr(function, "_recbole_mambarec_wrappers", ())


def _identity(wrapper: Callable) -> str:
    return f"{wrapper.__module__}.{wrapper.__qualname__}"


class Overlay(types.ModuleType):
    """A module with some attributes replaced, for the one module that imports it; the rest is the real module's."""

    def __init__(self, module: types.ModuleType, **replacements: object):
        super().__init__(module.__name__, module.__doc__)
        vars(self).update(replacements, _module=module, _replaced=tuple(replacements))

    def __getattr__(self, name: str) -> object:
        return getattr(vars(self)["_module"], name)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *dir(vars(self)["_module"])})


def overlay(owner: types.ModuleType, name: str, **replacements: object) -> None:
    """Replace attributes of the module that ``owner`` has under the global name ``name``, for ``owner`` only."""
    for attribute, value in replacements.items():
        if isinstance(value, Overlay):
            for inner in vars(value)["_replaced"]:
                record(owner, name, attribute, inner)
        else:
            record(owner, name, attribute)
    current = getattr(owner, name)
    if isinstance(current, Overlay):
        vars(current).update(replacements)
    else:
        setattr(owner, name, Overlay(current, **replacements))
