"""What the README and the pages say to type works, on small data.

Each page is run from top to bottom in a folder of its own, so that a command may use what an earlier one has made.
Three things differ from what a user does: MovieLens 100K becomes a small dataset, a training stops after two epochs
unless the page says how many it takes, and names that differ from user to user (a checkpoint, an id) become those that
are there.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests import warm
from tests.docs import blocks as documented
from tests.docs.blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation is part of the repository only", allow_module_level=True)

from tests.docs import place  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: packages that a page alone needs, and their extras
_NEEDS = {"recommend": (("safetensors", "serve"), ("sqlite_vec", "dev"), ("apsw", "dev"))}
#: words with which a command that trains begins
_TRAINS = ("run", "compare", "tune")
_QUICK = ("--epochs=2", "--show_progress=False", "--use_gpu=False")
_SCRIPTS = ("run_recbole.py", "run_recbole_group.py", "run_hyper.py")
#: commands that are tested elsewhere: tests/test_install.py, the suite itself, tests/parity, tests/test_command.py
_ELSEWHERE = (
    *("make", "py tools/install.py", "python tools/install.py", "uv run", "pip"),
    *("python -m tests.parity", "recbole-mambarec doctor"),
)


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("sh", "python") and not block.reason]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    pytest.importorskip("polars", reason="the extra [prep] is not installed", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("template")
    place.fill(folder)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_what_a_page_says_works(page, template, tmp_path):
    always = (("matplotlib", "report"), ("jinja2", "report"), ("hyperopt", "hyperopt"))
    for module, extra in (*always, *_NEEDS.get(page.stem, ())):
        pytest.importorskip(module, reason=f"the extra [{extra}] is not installed", exc_type=ImportError)
    folder = tmp_path / "place"
    shutil.copytree(template, folder)
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        # comparisons of RecBole's own models are fused and ranked by checkpoints that these made themselves
        "RECBOLE_MAMBAREC_TRUST_CHECKPOINTS": "1",
    }
    for block in runnable(page):
        for arguments in steps(block, folder):
            done = warm.python(*arguments, cwd=folder, env=environment)
            output = (done.stdout + done.stderr)[-3000:]
            assert done.returncode == 0, f"{page.name}, line {block.line}: {' '.join(arguments)}\n{output}"


def steps(block: Block, folder: Path) -> list[list[str]]:
    """The arguments of ``python`` for each command of a block."""
    if block.language == "python":
        return [["-c", here(block.text, folder)]]
    found = []
    for words in block.commands():
        if " ".join(words).startswith(_ELSEWHERE):
            continue
        arguments = [here(word, folder) for word in as_python(words)]
        found.append([each for word in arguments for each in expanded(word, folder)])
    return found


def as_python(words: list[str]) -> list[str]:
    """What ``python`` is given for a command; one that trains is made short."""
    name, *rest = words
    if name == "recbole-mambarec":
        quick = _QUICK if rest[0] in _TRAINS and not any(word.startswith("--epochs") for word in rest) else ()
        return ["-m", "recbole_mambarec", *rest, *quick]
    assert name == "python", f"'{' '.join(words)}' is neither run nor marked as not run"
    if rest[0] in _SCRIPTS:
        return [str(ROOT / rest[0]), *rest[1:], *_QUICK]
    return rest


def here(text: str, folder: Path) -> str:
    """A command or code with names of this folder: the small dataset, one of its users, the newest checkpoint."""
    text = re.sub(r"\b(196|A1B2C3)\b", place.A_USER, text.replace("ml-100k", "baby"))
    return re.sub(r"saved/(\w+)-\.\.\.\.pth", lambda found: newest(folder, found[1]), text)


def newest(folder: Path, kind: str) -> str:
    files = sorted((folder / "saved").glob(f"{kind}-*.pth"), key=lambda path: path.stat().st_mtime_ns)
    assert files, f"no earlier command of the page has written saved/{kind}-....pth"
    return files[-1].relative_to(folder).as_posix()


def expanded(word: str, folder: Path) -> list[str]:
    """The files that a pattern of the shell stands for."""
    if "*" not in word or word.startswith("-"):
        return [word]
    return [str(path.relative_to(folder)) for path in sorted(folder.glob(word))] or [word]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


def test_blocks_are_found_with_their_lines_and_reasons(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n```sh\npython a.py --x='b c' \\\n    -y  # comment\n\nmake z\n```\n"
        "<!-- not run: it costs money -->\n```python\nbuy()\n```\n```yaml\na: 1\n```\n",
        encoding="utf-8",
    )
    shell, python, other = documented.blocks(page)
    assert shell.commands() == [["python", "a.py", "--x=b c", "-y"], ["make", "z"]] and shell.reason == ""
    assert (shell.line, python.line, python.reason, other.language) == (2, 8, "it costs money", "yaml")


def test_a_command_that_fails_is_noticed(tmp_path):
    done = warm.python("-m", "recbole_mambarec", "run", "--model=Nothing", cwd=tmp_path)
    assert done.returncode == 2


def test_an_unknown_program_is_noticed():
    with pytest.raises(AssertionError, match="neither run nor marked"):
        as_python(["curl", "x"])
