"""docs/models.bib has the papers of all models, as the models' docstrings name them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from recbole.utils import get_model

from recbole_mambarec import registry

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation is part of the repository only", allow_module_level=True)

from tools import bibliography, models_page  # noqa: E402

ENTRY = """\
@article{doe2020short,
  title         = {{DOE}: A Title That Goes
                   On},
  year          = {2020},
  keywords      = {A, B},
}
"""


@pytest.fixture(scope="module")
def entries():
    return bibliography.read(bibliography.FILE.read_text(encoding="utf-8"))


def docstring(model: str) -> str:
    return " ".join(inspect.getdoc(get_model(model)).split())


def identifiers(text: str) -> set[str]:
    """The arXiv numbers and DOIs in a docstring."""
    return set(re.findall(r"\b\d{4}\.\d{5}\b", text)) | set(re.findall(r"\b10\.\d{4}/[^\s,;)]+", text))


def short_title(entry) -> str:
    """The title without the name of the model at its beginning, which a docstring may leave out."""
    return re.sub(r"^\w+: ", "", entry.title)


def place(entry, text: str) -> str:
    """What a docstring says of a paper in parentheses: with its number, around its title, or behind that."""
    known = {entry.fields.get("eprint"), entry.fields.get("doi")}
    for said in re.findall(r"\(([^()]+)\)", text):
        if identifiers(said) & known or short_title(entry) in said:
            return said
    behind = re.search(re.escape(short_title(entry)) + r'" \(([^()]+)\)', text)
    assert behind, f"the docstring does not name {entry.key}"
    return behind[1]


def test_every_published_model_has_one_paper(entries):
    files = models_page.Records().parity
    counts = {model: len(bibliography.of(model, entries)) for model in registry.built_in()}
    published = {model for model in counts if models_page.parity(model, files) != "none"}
    assert {counts[model] for model in published} == {1}
    assert [model for model, count in counts.items() if not count] == ["ItemFeatureKNN"]
    assert {model for entry in entries for model in entry.models} - counts.keys() == {"RecBole"}


def test_entries_and_docstrings_name_the_same_papers(entries):
    for model in registry.built_in():
        papers, text = bibliography.of(model, entries), docstring(model)
        quoted = re.findall(r'"([^"]+)"', text.partition(" (")[0])
        assert set(quoted) <= {title for entry in papers for title in (entry.title, short_title(entry))}, model
        kept = {entry.fields[name] for entry in papers for name in ("eprint", "doi") if name in entry.fields}
        assert identifiers(text) <= kept, model
        for entry in papers:
            said = place(entry, text)
            years = set(re.findall(r"(?<![\d.])(?:19|20)\d\d(?![\d.])", said))
            # a preprint has the year of its number
            years |= {f"20{number[:2]}" for number in identifiers(said) if not years}
            assert years == {entry.fields["year"]}, (model, entry.key)


def test_entries_are_complete(entries):
    where = {"inproceedings": {"booktitle"}, "article": {"journal"}, "misc": {"eprint"}}
    for entry in entries:
        assert {"title", "author", "year"} | where[entry.kind] <= entry.fields.keys(), entry.key
        assert ("eprint" in entry.fields) == ("archiveprefix" in entry.fields), entry.key
        names = [name.split(", ") for name in entry.fields["author"].split(" and ")]
        assert all(len(name) == 2 and "others" not in name for name in names), entry.key
        family = re.sub(r"\W", "", names[0][0]).lower()
        assert re.fullmatch(rf"{family}{entry.fields['year']}[a-z0-9]+", entry.key)


def test_the_readme_cites_as_the_file_does(entries):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bibtex\n@inproceedings\{(\w+),\n(.*?)\}\n```", text, re.DOTALL)
    entry = next(entry for entry in entries if entry.key == block[0])
    said = dict(re.findall(r"(\w+) += \{(.*)\}", block[1]))
    assert {name: said[name] for name in ("title", "author", "year")}.items() <= entry.fields.items()


def test_an_entry_is_read_and_shown_without_its_models():
    (entry,) = bibliography.read(ENTRY)
    assert (entry.kind, entry.key, entry.models) == ("article", "doe2020short", ["A", "B"])
    assert entry.fields == {"title": "{DOE}: A Title That Goes On", "year": "2020"}
    assert entry.title == "DOE: A Title That Goes On"
    assert bibliography.block([entry]) == "```bibtex\n" + ENTRY.replace("  keywords      = {A, B},\n", "") + "```\n"
    assert bibliography.of("B", [entry]) == [entry] and bibliography.of("C", [entry]) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("}\n", "}\n\nstray\n", "not an entry: stray"),
        ("  year          = {2020},", "  year          = 2020,", "not a field of doe2020short: year"),
        ("{DOE}", "{DOE", "unbalanced braces in title"),
        ("  year          = {2020},\n", "  year = {2020},\n  year = {2021},\n", "occurs twice"),
        (ENTRY, ENTRY + ENTRY, "occurs twice"),
        ("keywords", "note", "doe2020short has no keywords"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(old, new, complaint):
    with pytest.raises(ValueError, match=complaint):
        bibliography.read(new.join(ENTRY.rsplit(old, 1)))
