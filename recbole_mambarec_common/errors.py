"""The exception for mistakes in the input, and errors in one line."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_mambarec_command.command_line import ReportedError, run_main

__all__ = ["UserError", "error_summary", "one_line", "run_main"]


class UserError(ReportedError, ValueError):
    """The input is at fault, not the program.

    The message is one sentence that says what is wrong, where, and what to do about it. Command lines print it without
    a traceback (:func:`run_main`). Line breaks in a value that it quotes become blanks.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).splitlines()))


def error_summary(error: BaseException) -> str:
    """An error in one line, without paths of this machine; other errors than :class:`UserError` with their type."""
    first = (str(error).strip().splitlines() or [""])[0]
    text = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
    return text.replace(f"{Path.cwd()}{os.sep}", "").replace(f"{Path.home()}{os.sep}", "~/")


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, to be part of a sentence."""
    return " ".join(str(error).split()) or type(error).__name__
