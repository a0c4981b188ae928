"""docs/models.md and the README's table say what docstrings, YAML files and records of measurements say today."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from recbole_mambarec import registry
from recbole_mambarec.testing.parity.__main__ import main
from recbole_mambarec.yaml_files import read_yaml_mapping

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "parity" / "fixtures"
if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation is part of the repository only", allow_module_level=True)

from tools import markdown, models_page  # noqa: E402


def test_the_page_is_what_the_tool_writes():
    assert models_page.PAGE.read_text(encoding="utf-8") == models_page.page(), "run python -m tools.models_page"


def test_the_readme_has_todays_parity_of_every_model():
    text = models_page.README.read_text(encoding="utf-8")
    assert text == models_page.readme(text), "run python -m tools.models_page"
    rows = re.findall(r"^\| (\w+) \|.*\| (\S+)[^|]*\|[^|]*\|$", text.partition("\n## Models\n")[2], re.MULTILINE)
    files = models_page.Records().parity
    assert sorted(name for name, _ in rows) == sorted(registry.built_in())
    assert dict(rows) == {name: models_page.parity(name, files) for name in registry.built_in()}
    wrong = text.replace("| MMRec | 0.01 |", "| MMRec | 0.77 |", 1)
    assert wrong != text and models_page.readme(wrong) == text


def test_every_model_has_a_card_with_all_of_its_keys():
    cards = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", models_page.page(), re.MULTILINE | re.DOTALL))
    assert list(cards) == registry.built_in()
    for name, card in cards.items():
        written = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \| \w", card, re.MULTILINE))
        assert written.keys() == read_yaml_mapping(registry.entry(name).defaults).keys(), name
        assert "**Parity**" in card and "**Accuracy**" in card and "**Cost**" in card
        # what it does comes first, in more than a line
        assert len(card.partition("**Parity**")[0].split()) > 50, name


def test_the_record_of_parity_is_about_the_files_of_today():
    record = json.loads(models_page.PARITY.read_text(encoding="utf-8"))
    assert record["files"].keys() == {file.stem for file in FIXTURES.glob("*.npz")}, (
        "run python -m tests.parity --json results/parity.json"
    )
    assert all(file["arrays"] >= 3 and 0 <= file["largest_error"] <= 1 for file in record["files"].values())


def test_the_record_of_parity_is_written_by_the_comparison(tmp_path):
    target = tmp_path / "parity.json"
    assert main([str(FIXTURES / "VBPR.npz"), "--json", str(target)]) == 0
    written = json.loads(target.read_text(encoding="utf-8"))
    kept = models_page.Records().parity["VBPR"]
    assert written["torch"] == torch.__version__ and list(written["files"]) == ["VBPR"]
    for name in ("model", "reference", "arrays"):
        assert written["files"]["VBPR"][name] == kept[name]


def test_what_was_not_measured_is_blank():
    records = models_page.Records()
    records.cost, records.rows, records.published = {}, [], {}
    card = models_page._card("FREEDOM", records)
    assert "**Cost**: not measured" in card and "**Accuracy**: neither measured nor published" in card
    assert models_page._scores({"recall@20": 0.1, "ndcg@10": None}) == ["", "0.1000", "", ""]


def test_docstrings_as_markdown():
    text = "A ``key``; see :func:`~a.b.thing`::\n\n    x  = 1\n\n    y\n\nThe end."
    assert markdown.from_docstring(text) == "A `key`; see `thing`:\n\n```text\nx  = 1\n\ny\n```\n\nThe end."
    assert markdown.table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
