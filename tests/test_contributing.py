"""The map of the source tree in CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documentation is part of the repository only")
def test_the_map_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w.]+/[\w./]*)`", text.partition("## Where things are")[2])
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
