"""Run as a script, in the copy of a checkout: pytest with a note of every outcome. See ``__main__.py``.

Imports nothing of this project by itself, so that RecBole can be tried without it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path


def reason_of(error: BaseException) -> tuple[str, bool]:
    """Why a test failed, in words, and whether for a package that is not installed."""
    # a sentence for users, and pytest's error for a file that it cannot import, were raised from what happened
    link: BaseException | None = error
    first = error
    while link is not None:
        if isinstance(link, ModuleNotFoundError) and link.name:
            package = link.name.partition(".")[0]
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed", True
        first, link = link, link.__cause__
    if isinstance(first, AssertionError):
        return "an assertion does not hold", False
    return type(first).__name__, False


class Recorder:
    """A plugin for pytest that notes the outcome of every test, and why it failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict] = {}

    def pytest_exception_interact(self, node, call, report) -> None:
        """Called for each test that fails, and each file that cannot be collected."""
        reason, lacking = reason_of(call.excinfo.value)
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (crash.message if crash else str(report.longrepr)).strip().splitlines() or [""]
        # pytest's text for a file ends with the error, that of a test begins with it
        message = lines[0] if crash else lines[-1].removeprefix("E").strip()
        self._note(node.nodeid, "failed", reason, message, lacking)

    def pytest_runtest_logreport(self, report) -> None:
        """Called for the three phases of every test."""
        if report.failed:
            # what was raised, if anything was, is told by the hook above, which comes after this one
            self._note(report.nodeid, "failed", "failed without an error", str(report.longrepr).splitlines()[0])
        elif report.skipped:
            self._note(report.nodeid, "skipped")
        elif report.passed and report.when == "call":
            self._note(report.nodeid, "passed")

    def pytest_collectreport(self, report) -> None:
        """Called for every file."""
        if report.skipped:
            self._note(report.nodeid, "skipped")

    def _note(self, test: str, outcome: str, reason: str = "", message: str = "", lacking: bool = False) -> None:
        self.outcomes[test] = {
            "test": test,
            "outcome": outcome,
            "reason": reason,
            "message": message,
            "lacking": lacking,
        }


def main(told: str, shims: str, *pytest_arguments: str) -> int:
    """Run pytest in the current folder and write the outcomes to the file ``told``."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    if shims == "shims":
        import recbole_mambarec  # noqa: F401
    import pytest

    recorder = Recorder()
    # importlib: RecBole's folders of tests are no packages, and files of two of them may share a name
    fixed = ["--import-mode=importlib", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    fixed += ["-q", "--tb=no", "--no-summary"]
    status = pytest.main([*fixed, *(pytest_arguments or ["tests"])], plugins=[recorder])
    Path(told).write_text(json.dumps(list(recorder.outcomes.values())), encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
