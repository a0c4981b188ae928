"""Checks of single configuration values, for models and layers as well as for the data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from recbole_mambarec.errors import UserError


def check_choice(key: str, value: str, allowed: Collection[str]) -> str:
    """The value of the configuration key ``key``, if it is one of ``allowed``.

    Raises:
        UserError: it is not.
    """
    if value not in allowed:
        raise UserError(f"{key} '{value}' is unknown: use one of {', '.join(allowed)}")
    return value


def check_share(key: str, value: float) -> float:
    """The value of the configuration key ``key``, if it is from 0 to 1.

    Raises:
        UserError: it is not.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{key} must be from 0 to 1, got {value}")
    return value


def list_of_names(key: str, value: object) -> list[str] | None:
    """The value of the configuration key ``key`` as a list of names; None stays None.

    ``[a, b]``, ``a,b`` and ``a`` are accepted, also as text, in which form a command line gives a list of names.

    Raises:
        UserError: it is of another type, or a name occurs twice.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = value.strip().removeprefix("[").removesuffix("]").split(",")
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise UserError(f"{key} must be a list of names, got {value!r}")
    names = [str(name).strip().strip("'\"") for name in value if str(name).strip()]
    if len(set(names)) < len(names):
        raise UserError(f"{key} has a name twice: {', '.join(names)}")
    return names
