"""Run RecBole's own tests with nothing added but ``import recbole_mambarec``, and count what fails by reason.

    python -m tests.recbole_suite path/to/RecBole                    # all of its tests
    python -m tests.recbole_suite path/to/RecBole tests/metrics -x   # a part of them, with pytest's own options

The path is a checkout of RecBole's repository in the version that is installed. Its tests run against the installed
RecBole, in a copy without its sources, so that nothing is written into the checkout. The exit status is 0 if whatever
fails only lacks a package that is not installed, and 1 if something fails for another reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib import metadata
from pathlib import Path

from recbole_mambarec.errors import UserError, run_main

_LEFT_OUT = shutil.ignore_patterns(
    "recbole", "docs", "asset", ".*", "__pycache__", "saved", "log", "log_tensorboard", "*.egg-info", "build", "dist"
)
_RECORDER = Path(__file__).resolve().with_name("recorder.py")
_VERSIONS = ("recbole-mambarec", "numpy", "pandas", "scipy", "torch", "pytest")


def main(argv: list[str] | None = None) -> int:
    """Check the checkout, run its tests and print the counts.

    Raises:
        UserError: the path is no checkout of RecBole, or one of another version than the installed RecBole, or pytest
            ran no test.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.recbole_suite",
        description="Run RecBole's own tests under the shims of recbole_mambarec and count failures by reason.",
        epilog="Further arguments are passed to pytest, which runs in a copy of the checkout.",
        allow_abbrev=False,
    )
    parser.add_argument("checkout", type=Path, help="a checkout of RecBole's repository, in the installed version")
    parser.add_argument(
        "--without-shims", action="store_true", help="leave the import of recbole_mambarec out, for comparison"
    )
    options, pytest_arguments = parser.parse_known_args(argv)
    version = _checked(options.checkout)
    print(f"RecBole {version}, {commit(options.checkout)}; {versions()}", flush=True)
    started = time.monotonic()
    outcomes = run(options.checkout, pytest_arguments, shims=not options.without_shims)
    print(summary(outcomes, time.monotonic() - started))
    return int(any(outcome["reason"] and not outcome["lacking"] for outcome in outcomes))


def _checked(checkout: Path) -> str:
    """The version of RecBole in a checkout, which is the installed one."""
    if not checkout.is_dir():
        raise UserError(f"there is no folder '{checkout}': give the path of a checkout of RecBole's repository")
    source = checkout / "recbole" / "__init__.py"
    text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
    version = re.search(r"""^__version__\s*=\s*['"]([^'"]+)""", text, re.MULTILINE)
    if not version or not any((checkout / "tests").rglob("test_*.py")):
        raise UserError(
            f"'{checkout}' is no checkout of RecBole's repository: it must hold recbole/__init__.py with a version, "
            "and tests (the package from PyPI comes without them)"
        )
    try:
        installed = metadata.version("recbole")
    except metadata.PackageNotFoundError as error:
        raise UserError("RecBole is not installed: pip install --no-deps recbole==1.2.1") from error
    if version[1] != installed:
        raise UserError(
            f"'{checkout}' is RecBole {version[1]}, but {installed} is installed: check out the commit of {installed}"
        )
    return installed


def commit(checkout: Path) -> str:
    """The commit of a checkout in words, as far as git knows it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip()

    try:
        # an unpacked archive may lie within another repository
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), checkout):
            return "commit unknown"
        changed = " with local changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return f"commit {git('rev-parse', '--short=8', 'HEAD')}{changed}"
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"


def versions() -> str:
    """The versions that the outcome depends on."""
    found = [f"Python {platform.python_version()}"]
    for name in _VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def run(checkout: Path, pytest_arguments: list[str], shims: bool = True) -> list[dict]:
    """Run the tests of a checkout in a process of their own.

    Returns:
        per test and per file that could not be collected: ``test``, ``outcome`` (passed, failed or skipped), ``reason``
        and ``message`` of a failure, ``lacking`` (whether it is a package that is not installed).

    Raises:
        UserError: pytest was stopped, or ran no test.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy, told = Path(folder, "RecBole"), Path(folder, "outcomes.json")
        shutil.copytree(checkout, copy, ignore=_LEFT_OUT)
        command = [sys.executable, os.fspath(_RECORDER), os.fspath(told), "shims" if shims else "bare"]
        # options for this project's tests are none for RecBole's
        environment = {**os.environ, "PYTEST_ADDOPTS": ""}
        done = subprocess.run([*command, *pytest_arguments], cwd=copy, env=environment)
        if not told.is_file():
            raise UserError(f"pytest ended with status {done.returncode} before it was through: see its output above")
        outcomes = json.loads(told.read_text(encoding="utf-8"))
    if not outcomes:
        raise UserError(f"pytest ended with status {done.returncode} and ran no test: see its output above")
    return outcomes


def summary(outcomes: list[dict], seconds: float) -> str:
    """The counts in words: passed, failed, skipped, then the failures by reason, most frequent first."""
    count = {kind: sum(o["outcome"] == kind for o in outcomes) for kind in ("passed", "failed", "skipped")}
    lines = [
        f"{count['passed']} of {len(outcomes)} passed, {count['failed']} failed, {count['skipped']} skipped, "
        f"in {seconds:.0f} s"
    ]
    by_reason = defaultdict(list)
    for outcome in outcomes:
        if outcome["reason"]:
            by_reason[outcome["reason"]].append(outcome)
    for reason, those in sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        lines.append(f"{len(those):5}  {reason}")
        lines += [f"         {o['test']}" + ("" if o["lacking"] else f": {o['message']}") for o in those]
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
