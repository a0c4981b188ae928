"""Made-up runs, once for all tests of reports."""

from __future__ import annotations

import importlib.util

import pytest

_ABSENT = [name for name in ("polars", "matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
# what the extra [report] brings
collect_ignore_glob = ["test_*.py"] if _ABSENT else []


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of records with data for every section."""
    from tests.report.synthetic import everything

    return [str(path) for path in everything(tmp_path_factory.mktemp("runs"), users=0.15)]


@pytest.fixture(scope="session")
def report(files, tmp_path_factory):
    """The folder of a whole report."""
    from recbole_mambarec.report.cli import main

    folder = tmp_path_factory.mktemp("report")
    assert main([*files, "--out", str(folder)]) == 0
    return folder
