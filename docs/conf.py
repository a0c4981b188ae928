"""The documentation site: ``make docs`` builds it with Sphinx, and any warning is an error.

Pages are Markdown and stay readable on GitHub, so the root of the repository is the source folder: links between docs/,
results/ and the files at the top are ordinary relative links in both places.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recbole_mambarec_command import __version__  # noqa: E402

project = "recbole_mambarec"
author = "The recbole_mambarec authors"
release = version = __version__
copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = [
    "docs/**",
    "results/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/NOTES.md",
    "properties/preset/README.md",
    "properties/tuning/README.md",
    "tests/parity/fixtures/README.md",
]
# Sphinx walks through whatever is not excluded; .venv cannot be, because static files of extensions lie in it
exclude_patterns = [".git", ".nox", "build", "dist", "saved", "dataset", "log", "log_tensorboard", "tuning"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# quotes and ellipses, but not dashes: --variants is an option
smartquotes_action = "qe"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"recbole_mambarec {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_redirect"]
html_show_sphinx = False
html_copy_source = False
# the search and the API reference find more; an index of names alone is too wide for a screen
html_use_index = False
html_domain_indices = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
pygments_style = "friendly"
pygments_dark_style = "monokai"

#: Address of the repository on GitHub; unset: links to its files are downloads, and links to its folders plain text.
REPOSITORY = os.environ.get("SITE_REPOSITORY", "").rstrip("/")

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def _link_to_repository(app, docname: str, source: list[str]) -> None:
    """Turn links to files and folders that are not pages into links to the repository."""
    folder = (ROOT / docname).parent
    found = app.env.found_docs

    def replaced(match: re.Match) -> str:
        text, target = match[1], match[2]
        path = (folder / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]  # which Sphinx reports
        name = path.relative_to(ROOT).as_posix()
        if name.removesuffix(".md") in found:
            return match[0]
        if REPOSITORY:
            link = f"[{text}]({REPOSITORY}/{'tree' if path.is_dir() else 'blob'}/main/{name})"
            colab = REPOSITORY.replace("https://github.com/", "https://colab.research.google.com/github/")
            if path.suffix == ".ipynb" and colab != REPOSITORY:
                link += f" ([open in Colab]({colab}/blob/main/{name}))"
            return link
        return text if path.is_dir() else match[0]

    source[0] = _LINK.sub(replaced, source[0])


def _check_static_files(app, error: Exception | None) -> None:
    """Sphinx leaves out files that match an excluded pattern without a warning."""
    if error is None and app.builder.format == "html":
        page = (Path(app.outdir) / f"{root_doc}.html").read_text(encoding="utf-8")
        for name in re.findall(r'(?:href|src)="\.\./(_static/[^"?#]+)', page):
            if not (Path(app.outdir) / name).is_file():
                raise ExtensionError(f"pages refer to {name}, which was not copied")


def setup(app) -> None:
    app.connect("source-read", _link_to_repository)
    app.connect("build-finished", _check_static_files)
