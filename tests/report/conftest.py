"""Made-up runs, once for all tests of reports."""

from __future__ import annotations

import pytest

from recbole_mambarec.report.cli import main
from tests.report.synthetic import everything


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of records with data for every section."""
    return [str(path) for path in everything(tmp_path_factory.mktemp("runs"), users=0.15)]


@pytest.fixture(scope="session")
def report(files, tmp_path_factory):
    """The folder of a whole report."""
    folder = tmp_path_factory.mktemp("report")
    assert main([*files, "--out", str(folder)]) == 0
    return folder
