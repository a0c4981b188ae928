"""Helpers for tests of several modules, besides :mod:`recbole_mambarec.testing`."""

from __future__ import annotations

import os

import pytest

posix = pytest.mark.skipif(os.name == "nt", reason="Windows ends processes in other ways")
