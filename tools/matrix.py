"""The matrix of environments: what a run of tests in one of them showed, as records, and the table of the records.

    python tools/matrix.py            # take in new records, write results/matrix.md; status 1 if anything failed

``noxfile.py`` makes the environments and calls the rest. Nothing but the standard library, for any Python: this file is
also run inside the environments, before anything is installed there.
"""

from __future__ import annotations

import argparse
import configparser
import datetime
import json
import platform
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDS, TABLE = ROOT / "results" / "matrix.jsonl", ROOT / "results" / "matrix.md"
# new records, a file each, until the table is written: environments may be tried side by side
NEW = ROOT / "build" / "matrix"
PACKAGES = ("numpy", "pandas", "scipy", "torch", "ray", "recbole")
# one record each; a newer one takes the place of an older
KEY = ("system", "minor", "bound", "tests")
BOUNDS = {
    "lowest": "the lowest releases that setup.cfg allows and that have a build for this Python",
    "newest": "the newest releases",
    "constraints": "the releases of constraints.txt",
}
_CELL = "| {} |"


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def pythons() -> list[str]:
    """The versions of Python that the package is said to run on, in ascending order."""
    lines = _setup()["metadata"]["classifiers"].splitlines()
    words = [line.rpartition(" ")[2] for line in lines if " :: 3." in line]
    return sorted(words, key=lambda version: int(version.partition(".")[2]))


def requirements(extras: str) -> list[str]:
    """What the package and the extras (separated by commas) ask for, line by line."""
    setup = _setup()
    sections = [setup["options"]["install_requires"], *map(setup["options.extras_require"].get, extras.split(","))]
    return list(dict.fromkeys(line.strip() for section in sections for line in section.splitlines() if line.strip()))


def found(version: str) -> bool:
    """Whether an interpreter of that version is on this machine."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version or shutil.which(f"python{version}"):
        return True
    asked = [["py", f"-{version}", "--version"]] if sys.platform == "win32" else []
    asked += [["uv", "python", "find", "--no-python-downloads", version]]
    return any(
        shutil.which(command[0]) and subprocess.run(command, capture_output=True, check=False).returncode == 0
        for command in asked
    )


def environment() -> dict:
    """What is installed where this runs."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"python": platform.python_version(), "system": platform.system(), "versions": versions}


def counts(junit: Path) -> dict:
    """What pytest wrote down with ``--junitxml``: tests by outcome, and the names of those that failed."""
    outcomes = {"passed": 0, "failed": 0, "skipped": 0}
    failures = []
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        children = {child.tag for child in case}
        outcome = "failed" if children & {"failure", "error"} else "skipped" if "skipped" in children else "passed"
        outcomes[outcome] += 1
        if outcome == "failed":
            failures.append("::".join(filter(None, (case.get("classname"), case.get("name")))))
    return {**outcomes, "failures": sorted(set(failures))}


def record(tests: str, bound: str, minor: str, command: str, seconds: float, fault: str | None, **seen: object) -> dict:
    """One line of the records.

    Args:
        tests: "smoke" or "suite".
        bound: a key of :data:`BOUNDS`.
        minor: Python as it was asked for ("3.12").
        fault: why there is no outcome of tests, in words; None where there is one.
        seen: what :func:`environment` and :func:`counts` gave, as far as it came to that.
    """
    unknown = {"python": minor, "system": platform.system(), "versions": {}}
    nothing = {"passed": 0, "failed": 0, "skipped": 0, "failures": []}
    return {
        **unknown,
        **nothing,
        **seen,
        "minor": minor,
        "bound": bound,
        "tests": tests,
        "seconds": round(seconds, 1),
        "command": command,
        "date": datetime.date.today().isoformat(),
        "fault": fault,
    }


def failed(line: dict) -> bool:
    """Whether an environment could not be made, or a test failed there, or none ran."""
    return bool(line["fault"] or line["failed"] or not line["passed"])


def read(path: Path = RECORDS) -> list[dict]:
    """The records of a file; none where there is none."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def keep(line: dict, path: Path = RECORDS) -> None:
    """Put a record among the others, in place of the one of the same environment."""
    lines = [other for other in read(path) if any(other[name] != line[name] for name in KEY)]
    lines = sorted([*lines, line], key=_order)
    _write(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines))


def leave(line: dict, folder: Path = NEW) -> None:
    """Write a new record where :func:`take_in` finds it."""
    name = "-".join(str(line[part]) for part in KEY)
    _write(folder / f"{name}.json", json.dumps(line, ensure_ascii=False) + "\n")


def take_in(folder: Path = NEW, path: Path = RECORDS) -> None:
    """Put the new records of a folder (and of those in it) among the others."""
    for file in sorted(folder.rglob("*.json")):
        keep(json.loads(file.read_text(encoding="utf-8")), path)
        file.unlink()


def _order(line: dict) -> tuple:
    return (line["tests"], line["system"], int(line["minor"].partition(".")[2]), line["bound"])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def table(lines: list[dict], missing: dict[str, str] | None = None) -> str:
    """The page of results: a row per record, what failed, what was not run.

    Args:
        missing: versions of Python without a record -> why.
    """
    numbers = ["passed", "failed", "skipped", "seconds"]
    head = ["tests", "system", "Python", "bound", *PACKAGES, *numbers, "date", "command"]
    text = [
        "# Matrix of Pythons and releases",
        "",
        "Written by `make matrix` (`python tools/matrix.py`) from [matrix.jsonl](matrix.jsonl). To repeat a row, run",
        "the command in it. The tests called *smoke* use the built wheel in an environment of its own, from another",
        "folder (tests/smoke). *suite* is all tests, in the source tree. Seconds are those of the tests, without the",
        "installation.",
        "",
        *(f"* {bound}: {meaning}" for bound, meaning in BOUNDS.items() if any(x["bound"] == bound for x in lines)),
        "",
        _row(head),
        _row("---:" if name in numbers else "---" for name in head),
    ]
    for line in sorted(lines, key=_order):
        versions = [line["versions"].get(name) or "-" for name in PACKAGES]
        outcome = [line["passed"], line["failed"], line["skipped"], f"{line['seconds']:.0f}"]
        if line["fault"]:
            outcome = ["-", f"**{line['fault']}**", "-", "-"]
        elif failed(line):
            outcome[1] = f"**{line['failed']}**"
        end = [line["date"], f"`{line['command']}`"]
        text.append(_row([line["tests"], line["system"], line["python"], line["bound"], *versions, *outcome, *end]))
    wrong = [line for line in sorted(lines, key=_order) if line["failures"]]
    if wrong:
        text += ["", "## Failed", ""]
        for line in wrong:
            names = ", ".join(f"`{name}`" for name in line["failures"])
            text.append(f"* {line['tests']}, {line['system']}, Python {line['python']}, {line['bound']}: {names}")
    if missing:
        text += ["", "Not run: " + "; ".join(f"Python {version} ({why})" for version, why in missing.items()) + "."]
    return "\n".join(text) + "\n"


def _row(cells) -> str:
    return _CELL.format(" | ".join(str(cell).replace("|", "\\|") for cell in cells))


def write_table(records: Path = RECORDS, page: Path = TABLE, new: Path = NEW) -> bool:
    """Take in new records and write the page from all; whether all environments are well."""
    take_in(new, records)
    lines = read(records)
    here = {line["minor"] for line in lines}
    missing = {
        version: "not asked for" if found(version) else "no interpreter found"
        for version in pythons()
        if version not in here
    }
    _write(page, table(lines, missing))
    for version, why in missing.items():
        print(f"not run: Python {version} ({why})")
    for line in filter(failed, lines):
        what = line["fault"] or (f"{line['failed']} failed" if line["failed"] else "no test ran")
        print(f"{line['tests']}, {line['system']}, Python {line['python']}, {line['bound']}: {what}", file=sys.stderr)
    print(f"{page}: {len(lines)} environments, {sum(map(failed, lines))} of them failed")
    return bool(lines) and not any(map(failed, lines))


def main(argv: list[str] | None = None) -> int:
    """Write the table, or print what is installed (``--environment``)."""
    parser = argparse.ArgumentParser(prog="python tools/matrix.py", description=__doc__.splitlines()[0])
    parser.add_argument("--environment", action="store_true", help="print the versions that are installed, as JSON")
    parser.add_argument("--records", type=Path, default=RECORDS, help="JSON lines (default: results/matrix.jsonl)")
    parser.add_argument("--new", type=Path, default=NEW, help="folder of new records (default: build/matrix)")
    parser.add_argument("--out", type=Path, default=TABLE, help="the page (default: results/matrix.md)")
    options = parser.parse_args(argv)
    if options.environment:
        print(json.dumps(environment()))
        return 0
    if not options.records.is_file() and not any(options.new.rglob("*.json")):
        print(f"error: there are no records in '{options.records}': run make matrix first", file=sys.stderr)
        return 2
    return 0 if write_table(options.records, options.out, options.new) else 1


if __name__ == "__main__":
    sys.exit(main())
