"""How a command ends, and how its messages name another command."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator

CONSOLE = "recbole-mambarec"
#: works wherever the package can be imported: in a source tree, with any shell, whatever the PATH
MODULE = "python -m recbole_mambarec"

_typed = MODULE


class ReportedError(Exception):
    """A fault that a user can repair; the message is one sentence that says how, and is printed without a traceback."""


def typed(command: str) -> str:
    """``recbole-mambarec run`` for ``run``, or the form that works everywhere: whichever started this process."""
    return f"{_typed} {command}"


def example(prog: str) -> str:
    """How to type the command ``prog``: a script is started with Python."""
    return f"python {prog}" if prog.endswith(".py") else prog


def called_as(name: str) -> None:
    """Remember which of the two forms the user has typed."""
    global _typed
    _typed = name


def run_main(main: Callable[[], int | None]) -> None:
    """Run ``main`` and end the process with its exit status.

    For a :class:`ReportedError`, its message is printed to standard error and the status is 2; for an interrupt, it is
    130. Any other exception is a defect and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # for characters that the encoding of the terminal lacks; in a notebook, a stream may not be a text file
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    try:
        status = main()
    except ReportedError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, with which clusters end their jobs, stop a command cleanly, as Ctrl-C does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
