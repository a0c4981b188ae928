"""Which module may import which: no package imports one that is built on it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recbole_mambarec

ROOT = Path(recbole_mambarec.__file__).parent
# package -> the only modules of this project that it imports
ONLY = {"compat": ("recbole_mambarec.compat", "recbole_mambarec.errors")}
# folder -> packages that are built on it
NEVER = {
    ".": ("experiments", "report", "testing"),
    "data": ("experiments", "report", "testing", "models", "layers", "trainer"),
    "layers": ("experiments", "report", "testing", "models", "trainer"),
    "models": ("experiments", "report", "testing", "trainer"),
    "experiments": ("report", "testing", "recommend"),
    "scoring": ("report", "testing", "recommend"),
}


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, at its top or in a function."""
    found = set()
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            found |= {statement.module} | {f"{statement.module}.{alias.name}" for alias in statement.names}
    return {module for module in found if module.startswith("recbole_mambarec")}


@pytest.mark.parametrize("package", ONLY)
def test_the_lowest_layer_stands_alone(package):
    for path in (ROOT / package).glob("*.py"):
        assert all(module.startswith(ONLY[package]) for module in imported(path)), path.name


@pytest.mark.parametrize("folder", NEVER)
def test_nothing_imports_what_is_built_on_it(folder):
    for path in (ROOT / folder).glob("*.py"):
        above = {f"recbole_mambarec.{package}" for package in NEVER[folder]}
        found = [module for module in imported(path) if any(f"{module}.".startswith(f"{each}.") for each in above)]
        assert found == [], path.name
