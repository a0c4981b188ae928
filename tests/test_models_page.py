"""docs/models.md and docs/models/ say what docstrings, YAML files and records of measurements say today."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from recbole.utils import ModelType, get_model

from recbole_mambarec import registry
from recbole_mambarec.testing.parity.__main__ import main
from recbole_mambarec.yaml_files import read_yaml_mapping

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "parity" / "fixtures"
if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation is part of the repository only", allow_module_level=True)

from tools import markdown, models_page  # noqa: E402


@pytest.fixture(scope="module")
def pages():
    return models_page.pages()


def test_the_pages_are_what_the_tool_writes(pages):
    written = {path: path.read_text(encoding="utf-8") for path in pages if path.exists()}
    assert written == pages, "run python -m tools.models_page"
    assert {path for path in pages if path != models_page.INDEX} == set(models_page.CARDS.glob("*.md"))


def test_the_index_names_every_model_with_todays_parity(pages):
    row = re.compile(r"^\| \[(\w+)\]\(models/\1\.md\) \|.*\| (\S+) \| [\d.]* \|$", re.MULTILINE)
    rows = row.findall(pages[models_page.INDEX])
    files = models_page.Records().parity
    assert dict(rows) == {name: models_page.parity(name, files) for name in registry.built_in()}


def test_every_model_has_a_card_with_all_of_its_keys(pages):
    cards = {path.stem: text for path, text in pages.items() if path != models_page.INDEX}
    assert list(cards) == registry.built_in()
    for name, card in cards.items():
        written = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \| \w", card, re.MULTILINE))
        assert written.keys() == read_yaml_mapping(registry.entry(name).defaults).keys(), name
        assert "## Parity" in card and "## Cost" in card
        # what it does comes first, in more than a line
        assert len(card.partition("## Formula")[0].split()) > 50, name


def test_every_card_has_a_formula_of_the_score_and_the_loss(pages):
    without_loss = [name for name in registry.built_in() if get_model(name).type is ModelType.TRADITIONAL]
    for name in registry.built_in():
        section = pages[models_page.CARDS / f"{name}.md"].partition("## Formula\n")[2].partition("\n## ")[0]
        formula = re.search(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        assert formula, f"add a formula to the docstring of {name}: an indented block with a paragraph above it"
        assert re.search(r"\bitem\]? = |\bs\(u, i\) = ", formula[1]), name
        assert name in without_loss or re.search(r"\bloss = ", formula[1]), name
    assert "## Notation" in pages[models_page.INDEX]


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
    card = models_page.card("FREEDOM", records)
    assert "## Cost\n\nNot measured" in card and "## Accuracy\n\nNeither measured nor published" in card
    assert models_page._scores({"recall@20": 0.1, "ndcg@10": None}) == ["", "0.1000", "", ""]


def test_docstrings_as_markdown():
    text = "A ``key``; see :func:`~a.b.thing`::\n\n    x  = 1\n\n    y\n\nThe end."
    assert markdown.from_docstring(text) == "A `key`; see `thing`:\n\n```text\nx  = 1\n\ny\n```\n\nThe end."
    assert markdown.with_links("See results/a-b.md, `docs/c.md`.", "../") == (
        "See [results/a-b.md](../results/a-b.md), `docs/c.md`."
    )
    assert markdown.table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
