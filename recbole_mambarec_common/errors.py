"""The exception for mistakes in the input, and checks that raise it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from recbole_mambarec_command.command_line import ReportedError, run_main

__all__ = ["UserError", "names_of", "one_line", "one_of", "run_main", "sentence", "share"]


class UserError(ReportedError, ValueError):
    """The input is at fault, not the program.

    The message is one sentence that says what is wrong, where, and what to do about it. Command lines print it without
    a traceback (:func:`run_main`). Line breaks in a value that it quotes become blanks.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).splitlines()))


def sentence(error: BaseException) -> str:
    """An error in one line, without paths of this machine; other errors than :class:`UserError` with their type."""
    first = (str(error).strip().splitlines() or [""])[0]
    text = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
    return text.replace(f"{Path.cwd()}{os.sep}", "").replace(f"{Path.home()}{os.sep}", "~/")


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, to be part of a sentence."""
    return " ".join(str(error).split()) or type(error).__name__


def one_of(key: str, value: str, allowed: Collection[str]) -> str:
    """The value of the configuration key ``key``, if it is one of ``allowed``.

    Raises:
        UserError: it is not.
    """
    if value not in allowed:
        raise UserError(f"{key} '{value}' is unknown: use one of {', '.join(allowed)}")
    return value


def share(key: str, value: float) -> float:
    """The value of the configuration key ``key``, if it is from 0 to 1.

    Raises:
        UserError: it is not.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{key} must be from 0 to 1, got {value}")
    return value


def names_of(key: str, value: object) -> list[str] | None:
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
