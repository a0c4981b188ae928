"""How a command line ends, and what another command is called in its messages."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

CONSOLE = "recbole-mambarec"
#: works wherever the package can be imported: in a source tree, with any shell, whatever the PATH
MODULE = "python -m recbole_mambarec"

_typed = MODULE


class Sentence(Exception):
    """Something is at fault that a user can mend, and the message is one sentence that says how."""


def typed(command: str) -> str:
    """``recbole-mambarec run`` for ``run``, or the form that works everywhere, as this process was called itself."""
    return f"{_typed} {command}"


def example(prog: str) -> str:
    """How to type what is called ``prog``: scripts are started with Python."""
    return f"python {prog}" if prog.endswith(".py") else prog


def called_as(name: str) -> None:
    """Note which of the two forms a user has typed."""
    global _typed
    _typed = name


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line ``main`` and leave the process with its exit status.

    A :class:`Sentence` becomes one line on standard error and status 2, an interrupt status 130; anything else is a
    defect and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # a sign that the encoding of the terminal lacks; what stands in for it in a notebook may be no text file
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    try:
        status = main()
    except Sentence as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
