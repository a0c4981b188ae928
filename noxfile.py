"""Environments for every Python that is found: ``nox -l`` lists them, ``make matrix`` makes and tries them.

    nox -s "smoke-3.12(lowest)" table     # one environment, then the table, in which its row is replaced
    nox -s suite-3.13 table               # all tests on one Python; options for pytest after --
    nox -s package                        # wheel and sdist in dist/, checked

Records and table are made by tools/matrix.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nox
from nox.command import CommandFailed

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tools import matrix

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
# interpreters that are not there are said and passed over, never fetched
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False
nox.options.sessions = ["smoke", f"suite-{sys.version_info.major}.{sys.version_info.minor}", "table"]

# RecBole comes without its own requirements, which have no solution on Python 3.12 and newer
RECBOLE = "recbole==1.2.1"
# what the smoke tests touch
EXTRAS = "hyperopt,ray,compare,report,prep"


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel into dist/, and check what an index would show of them."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    session.run("python", "-m", "twine", "check", "--strict", *map(str, Path("dist").iterdir()))


@nox.session(python=matrix.pythons(), requires=["package"])
@nox.parametrize("bound", [nox.param("lowest", id="lowest"), nox.param("newest", id="newest")])
def smoke(session: nox.Session, bound: str) -> None:
    """The built wheel, from another folder: prepare, train, compare, tune, report."""
    if bound == "lowest" and session.venv_backend != "uv":
        session.skip("only uv resolves to the lowest releases: pip install uv")
    (wheel,) = (matrix.ROOT / "dist").glob("*.whl")

    def install() -> None:
        session.install("pytest")
        if bound == "lowest":
            # uv takes the lowest releases of what is asked for by itself, not through a wheel; releases that would
            # have to be compiled first are none that anybody uses
            lowest = ["--resolution=lowest-direct", "--only-binary=:all:"]
            session.install(*lowest, *matrix.requirements(EXTRAS))
            session.install("--no-deps", str(wheel))
        else:
            session.install(f"recbole-mambarec[{EXTRAS}] @ {wheel.as_uri()}")
        session.install("--no-deps", RECBOLE)

    # not nox's own folder: paths of ray's sockets would be longer there than the system allows
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shutil.copy(matrix.ROOT / "tests" / "smoke" / "test_smoke.py", folder)
        environment = {"PYTHONPATH": None, "SMOKE_INSTALLED": "1"}
        _measured(session, "smoke", bound, install, Path(folder), [*session.posargs], environment)


@nox.session(python=matrix.pythons())
def suite(session: nox.Session) -> None:
    """All tests, in the source tree, with the releases of constraints.txt."""

    def install() -> None:
        # uv's environments have neither pip nor setuptools, with which the tests build and install wheels
        session.install("pip", "setuptools>=77")
        session.install("-c", "constraints.txt", "-e", ".[dev]")
        session.install("--no-deps", RECBOLE)

    # as in make test
    spread = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
    _measured(session, "suite", "constraints", install, matrix.ROOT, [*spread, *session.posargs], {"PYTHONPATH": None})


@nox.session(python=False)
def table(session: nox.Session) -> None:
    """Write results/matrix.md from all records, those of earlier calls included."""
    if not matrix.write_table():
        session.error("an environment failed: see results/matrix.md")


def _measured(
    session: nox.Session,
    tests: str,
    bound: str,
    install: Callable[[], None],
    folder: Path,
    arguments: list[str],
    environment: dict,
) -> None:
    """Install, run pytest, and record the outcome, whatever it is."""
    matrix.NEW.mkdir(parents=True, exist_ok=True)
    junit = matrix.NEW / f"{tests}-{session.python}-{bound}.xml"
    junit.unlink(missing_ok=True)
    seen: dict = {}
    fault, started = None, time.monotonic()
    try:
        install()
        seen = json.loads(session.run("python", matrix.__file__, "--environment", silent=True, env=environment))
        started = time.monotonic()
        with session.chdir(folder):
            command = ["python", "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={junit}", *arguments]
            session.run(*command, env=environment, success_codes=range(6))
        seen |= matrix.counts(junit)
    except CommandFailed:
        fault = "pytest was ended" if seen else "could not be installed"
    except OSError:
        fault = "pytest wrote no results"
    seconds = time.monotonic() - started
    line = matrix.record(tests, bound, str(session.python), f'nox -s "{session.name}" table', seconds, fault, **seen)
    matrix.leave(line)
    if matrix.failed(line):
        session.error(fault or f"{line['failed']} tests failed")
