"""Functions that the processes of the tests run; a process finds a function by its module."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from recbole_mambarec import registry
from recbole_mambarec.errors import UserError


def models(report) -> list[str]:
    """Names of the models that are registered in this process, its output, and the state of its Ctrl-C."""
    report({"ignored": signal.getsignal(signal.SIGINT) == signal.SIG_IGN})
    print("to the log")
    print("to the log, too", file=sys.stderr)
    return registry.names()


def mistake(report):
    raise UserError("too bad")


def defect(report):
    raise RuntimeError("ours\nin two lines")


def killed(report):
    report({"alive": True})
    os.kill(os.getpid(), signal.SIGKILL)


def sleeper(folder: str, report):
    """Touch a file ten times a second until the process is ended."""
    report({"pid": os.getpid()})
    while True:
        Path(folder, f"{os.getpid()}").write_text(str(time.time()), encoding="utf-8")
        time.sleep(0.1)
