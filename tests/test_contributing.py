"""The map of the source tree in CONTRIBUTING.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documentation is part of the repository only")
def test_the_map_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w.]+/[\w./]*)`", text.partition("## Where things are")[2])
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.skipif(os.name == "nt" or shutil.which("perl") is None, reason="there is no POSIX shell or no perl")
@pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="the notebooks are part of the repository only")
def test_one_command_replaces_the_owner_of_the_repository(tmp_path):
    """The command under "Publishing" finds every file that has the placeholder."""
    folders = ("docs", "examples", "results", "tools", "dataset_prep", "recbole_mambarec", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")] + list(ROOT.glob("*.*"))
    for path in files:
        if path.is_file() and b"github.com/OWNER" in path.read_bytes():
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\s*(perl .+)$", text, re.MULTILINE)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    changed = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*")]
    assert len(changed) >= 5
    assert all("OWNER" not in each and "github.com/YOUR-NAME/YOUR-REPOSITORY" in each for each in changed)
