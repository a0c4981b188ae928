"""The records of the matrix of environments, and the page that is made of them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "matrix.py"


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("matrix", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen(matrix, **changes) -> dict:
    """A record of an environment in which all tests pass."""
    versions = {name: f"{k}.0" for k, name in enumerate(matrix.PACKAGES)}
    found = {"python": "3.12.9", "system": "Linux", "versions": versions, "passed": 9, "failed": 0, "skipped": 1}
    values = {
        "tests": "smoke",
        "bound": "newest",
        "minor": "3.12",
        "command": "nox -s x",
        "seconds": 61.4,
        "fault": None,
    }
    return matrix.record(**(values | found | {"failures": []} | changes))


def rows(page: str) -> list[list[str]]:
    """The cells of the table below its head."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_a_record_takes_the_place_of_the_same_environment(matrix, tmp_path):
    file = tmp_path / "matrix.jsonl"
    for changes in (
        {"minor": "3.12", "passed": 3},
        {"minor": "3.9"},
        {"minor": "3.12", "bound": "lowest"},
        {"minor": "3.12", "tests": "suite", "bound": "constraints"},
        {"minor": "3.12", "system": "Windows"},
        {"minor": "3.12", "passed": 8},
    ):
        matrix.keep(seen(matrix, **changes), file)
    lines = matrix.read(file)
    assert [(x["tests"], x["system"], x["minor"], x["bound"], x["passed"]) for x in lines] == [
        ("smoke", "Linux", "3.9", "newest", 9),
        ("smoke", "Linux", "3.12", "lowest", 9),
        ("smoke", "Linux", "3.12", "newest", 8),
        ("smoke", "Windows", "3.12", "newest", 9),
        ("suite", "Linux", "3.12", "constraints", 9),
    ]
    assert list(tmp_path.iterdir()) == [file]


def test_the_page_shows_what_failed(matrix):
    good = seen(matrix)
    bad = seen(matrix, minor="3.10", python="3.10.2", failed=2, failures=["test_a::b", "test_c"])
    unmade = matrix.record("smoke", "lowest", "3.13", "nox -s y", 4.0, "could not be installed")
    empty = seen(matrix, minor="3.11", passed=0)
    assert [matrix.failed(line) for line in (good, bad, unmade, empty)] == [False, True, True, True]
    page = matrix.table([unmade, good, bad], {"3.14": "no interpreter found"})
    first, second, third = rows(page)
    assert first[:4] == ["smoke", "Linux", "3.10.2", "newest"] and first[10:14] == ["9", "**2**", "1", "61"]
    assert second[4:10] == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0"] and second[11] == "0"
    assert third[2] == "3.13" and third[4:10] == ["-"] * 6 and third[11] == "**could not be installed**"
    assert "* smoke, Linux, Python 3.10.2, newest: `test_a::b`, `test_c`" in page
    assert "Not run: Python 3.14 (no interpreter found)." in page
    assert "* lowest: the lowest" in page and "constraints" not in page


def test_outcomes_come_from_what_pytest_wrote(matrix, tmp_path):
    (tmp_path / "test_five.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.parametrize('k', [1, 2])\n"
        "def test_later(k): pytest.skip('not now')\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError('gone')\n"
        "def test_fixture(broken): pass\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "test_five.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    counted = matrix.counts(tmp_path / "out.xml")
    assert counted == {
        "passed": 1,
        "failed": 2,
        "skipped": 2,
        "failures": ["test_five::test_bad", "test_five::test_fixture"],
    }


def test_the_script_writes_the_page_and_its_status_shows_failures(matrix, tmp_path):
    def call(*arguments: str) -> subprocess.CompletedProcess:
        # isolated: the script must do without this source tree and without packages
        command = [sys.executable, "-I", str(SCRIPT), "--new=new", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)

    done = call("--records=none.jsonl", "--out=page.md")
    assert (done.returncode, done.stderr) == (2, "error: there are no records in 'none.jsonl': run make matrix first\n")
    file = tmp_path / "mine.jsonl"
    for version in matrix.pythons():
        matrix.keep(seen(matrix, minor=version, python=f"{version}.1"), file)
    assert call("--records=mine.jsonl", "--out=page.md").returncode == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert [row[2] for row in rows(page)] == [f"{version}.1" for version in matrix.pythons()]
    assert "Not run" not in page
    bad = seen(matrix, minor="3.11", python="3.11.1", failed=1, failures=["test_x"])
    matrix.leave(bad, tmp_path / "new" / "of another machine")
    done = call("--records=mine.jsonl", "--out=page.md")
    assert done.returncode == 1 and "smoke, Linux, Python 3.11.1, newest: 1 failed" in done.stderr
    assert bad in matrix.read(file) and not list(tmp_path.rglob("new/**/*.json"))
    told = json.loads(call("--environment").stdout)
    assert told["python"].startswith("3.") and told["versions"]["numpy"]


def test_interpreters_are_looked_for(matrix):
    assert matrix.found(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert not matrix.found("3.99")


def test_the_committed_page_is_that_of_the_committed_records(matrix):
    lines = matrix.read()
    page = matrix.TABLE.read_text(encoding="utf-8")
    assert lines and rows(page) == rows(matrix.table(lines))


def test_the_workflow_names_existing_files_and_sessions(matrix):
    """It cannot run here, but it is for the Pythons of setup.cfg, and names files and sessions that exist."""
    text = (ROOT / ".github" / "workflows" / "matrix.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    for name in ("suite", "smoke"):
        axes = jobs[name]["strategy"]["matrix"]
        assert axes["python"] == matrix.pythons()
        assert [system.partition("-")[0] for system in axes["os"]] == ["ubuntu", "macos", "windows"]
    for job in jobs.values():
        assert job["runs-on"] and all(("uses" in step) != ("run" in step) for step in job["steps"])
        assert set(job.get("needs", "").split()) <= set(jobs)
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    for script in re.findall(r"python (\S+\.py)", commands):
        assert (ROOT / script).is_file()
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"nox -s (\w+)", commands)) <= set(sessions) and len(sessions) == 4
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"make (\w+)", commands)) <= set(targets) and "matrix" in targets
