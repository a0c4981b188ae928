"""What every test needs to run RecBole."""

from __future__ import annotations

import pytest

# first of all: with an unusable ray, the tests could not import recbole.quick_start otherwise
import recbole_mambarec  # noqa: F401


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path, monkeypatch):
    """RecBole writes ``log/``, ``saved/`` and ``log_tensorboard/`` here, and takes arguments for settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["pytest"])
