"""HTML, Markdown and LaTeX of one report."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from recbole_mambarec.report import latex, markdown, page
from recbole_mambarec.report.document import Block, Cell, Omission, Report, Section, Table, with_unique_names

NASTY = r"50 % of {a_b} & <c> \ ~ ^ # $ | * `d` [e] − ± ∞ ≠ ↑ –"
VOID = {"meta", "img", "br", "link"}


def small() -> Report:
    rows = [
        [Cell("a"), Cell("0.1000", "0.0100", "best", star=True)],
        [Cell(NASTY), Cell("0.0900", rank="second")],
        [Cell("p", aside=True), Cell("0.5000", aside=True)],
    ]
    table = Table("t", f"A table. {NASTY}", ["model", "recall@20"], [Block("d", rows), Block("e", rows)], notes=[NASTY])
    section = Section("s", "Section", text=[NASTY], tables=[table], commands=[("C1", "python x.py --a=1")])
    return Report("Title <b>", ["d", "e"], ["Summary."], [section], [Omission("Curves", "no data")], "python -m report")


class Elements(HTMLParser):
    """Fails at a tag that is not closed, and collects attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_is_well_formed_self_contained_and_accessible(report):
    text = (report / "index.html").read_text()
    elements = Elements(text)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text) and "url(" not in text and "<script" not in text
    images = elements.all("img")
    assert len(images) >= 14 and all(len(image["alt"]) > 40 for image in images)
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in images)
    identifiers = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    for tag, attributes in elements.found:
        if tag == "a":
            assert attributes["href"].removeprefix("#") in identifiers
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identifiers
    assert elements.all("html")[0]["lang"] == "en"


def test_text_is_escaped_in_the_page():
    text = page.render(small())
    Elements(text)
    assert "<c>" not in text and "&lt;c&gt;" in text and "<title>Title &lt;b&gt;</title>" in text
    assert "<strong>0.1000</strong><sup>*</sup> <small>± 0.0100</small>" in text and "<u>0.0900</u>" in text
    # the value without a deviation keeps its place
    assert '<u>0.0900</u> <small class="padding" aria-hidden="true">± 0.0100</small>' in text
    assert "no data" in text


def test_markdown_tables_have_as_many_cells_in_each_line():
    text = markdown.render(small())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert r"| a | **0.1000**\* ± 0.0100 |" in text and "| *p* | *0.5000* |" in text
    assert r"\<c\>" in text and "# Title \\<b\\>" in text
    assert "- Curves: no data." in text


def test_a_page_surrounds_its_notes():
    report = small()
    with_title = markdown.page(report, "# Baby\n\nBefore *it*.\n\n<!-- tables -->\n\nAfter.\n", "notes/a.md")
    assert with_title.index("# Baby\n\nBefore *it*.") < with_title.index("## Section") < with_title.index("After.")
    assert "# Title" not in with_title and with_title.endswith("After.\n")
    assert with_title.startswith("<!-- Written by `python -m report`; notes are in notes/a.md. -->\n")
    without = markdown.page(report, None, "notes/a.md")
    assert "# Title" in without and "## Left out" not in without


def test_latex_is_balanced_and_escaped():
    text = latex.render(small())
    assert r"50 \% of \{a\_b\} \& \textless{}c\textgreater{} \textbackslash{} \textasciitilde{}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {1}
    assert r"\textbf{0.1000}\rlap{$^{*}$} {\scriptsize$\pm$0.0100}" in text
    assert r"\underline{0.0900} \phantom{\scriptsize$\pm$0.0100}" in text
    assert (
        text.count(r"\toprule") == text.count(r"\bottomrule") == 1
        and "|" not in re.findall(r"tabular}{(\w+)}", text)[0]
    )


def has_booktabs() -> bool:
    found = shutil.which("pdflatex") and shutil.which("kpsewhich")
    return (
        bool(found) and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not has_booktabs(), reason="needs pdflatex and booktabs")
def test_latex_compiles(report, tmp_path):
    source = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{t}\end{document}"
    (tmp_path / "whole.tex").write_text(source)
    for content in ((report / "tables.tex").read_text(), latex.render(small())):
        (tmp_path / "t.tex").write_text(content, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "whole.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_parts_of_the_same_name_are_numbered():
    first, second = with_unique_names([*small().sections, *small().sections])
    assert (first.tables[0].name, second.tables[0].name) == ("t", "t-2")
