"""Settings and fixtures that every test needs to run RecBole."""

from __future__ import annotations

import logging
import os
import signal

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # before torch is imported: the workers share the cores, and waiting threads would spin
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# before the tests: with an unusable ray, they could not import recbole.quick_start otherwise
import recbole_mambarec  # noqa: F401

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts background jobs with Ctrl-C ignored, which the processes that tests interrupt would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)


# the time of an example depends on the machine
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path, monkeypatch):
    """RecBole writes ``log/``, ``saved/`` and ``log_tensorboard/`` here, and takes arguments for settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["pytest"])


@pytest.fixture(autouse=True)
def _log_as_before():
    """RecBole changes the level and the handlers of the root logger: restore them after each test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.setLevel(logging.WARNING)
    yield
    root.setLevel(level)
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
        handler.close()
    for handler in [h for h in handlers if h not in root.handlers]:
        root.addHandler(handler)
