"""The summary of RecBole's own tests, for a small folder with the structure of its repository."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from recbole_mambarec.errors import UserError
from tests.recbole_suite.__main__ import commit, main

_FILES = {
    "setup.py": "raise SystemExit('not to be run')\n",
    # would be found first, were it copied
    "recbole/__init__.py": '__version__ = "{version}"\nassert not __name__\n',
    "tests/__init__.py": "",
    "tests/data/numbers.txt": "3 4\n",
    "tests/metrics/test_same_name.py": """
        import sys, unittest
        from pathlib import Path

        from recbole.evaluator.utils import _binary_clf_curve

        class TestMetrics(unittest.TestCase):
            def test_reads_beside_the_checkout(self):
                self.assertEqual(Path("tests/data/numbers.txt").read_text().split(), ["3", "4"])
                Path("saved").mkdir()
                Path("tests/data/numbers.txt").write_text("spoilt")

            def test_wrong(self):
                self.assertEqual(1 + 1, 3, "sums are off")

            @unittest.skip("for later")
            def test_later(self):
                pass

            def test_shims(self):
                assert "recbole_mambarec" in sys.modules
        """,
    "tests/model/test_same_name.py": """
        def test_imports_late():
            import a_package_that_nobody_has.part

        def test_wraps():
            try:
                import another_one_nobody_has
            except ImportError as error:
                raise ValueError("no such model") from error

        def test_type():
            [][0]
        """,
    "tests/model/test_imports.py": "import a_package_that_nobody_has\n\ndef test_never(): pass\n",
    "tests/model/test_renamed.py": "from recbole.nowhere import Thing\n\ndef test_never(): pass\n",
}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the structure of RecBole's repository."""
    root = tmp_path / "Rec Bole"
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.format(version=metadata.version("recbole")) if name.startswith("recbole") else text
        path.write_text(lines.replace("\n        ", "\n"), encoding="utf-8")
    return root


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_failures_are_counted_by_reason(checkout, capfd):
    before = listing(checkout)
    assert main([str(checkout)]) == 1
    out = capfd.readouterr().out
    assert listing(checkout) == before and not (checkout / "saved").exists()
    assert f"RecBole {metadata.version('recbole')}, commit unknown; Python 3." in out
    counted = out[out.index("2 of 9 passed") :].splitlines()
    assert counted[0].startswith("2 of 9 passed, 6 failed, 1 skipped, in ")
    assert [line.split(maxsplit=1) for line in counted[1:] if line[:6].strip()] == [
        ["2", "the package a_package_that_nobody_has is not installed"],
        ["1", "IndexError"],
        ["1", "ModuleNotFoundError"],
        ["1", "an assertion does not hold"],
        ["1", "the package another_one_nobody_has is not installed"],
    ]
    assert "         tests/model/test_imports.py" in counted
    assert any("test_renamed.py: " in line and "No module named 'recbole.nowhere'" in line for line in counted)
    assert any("test_wrong: " in line and "sums are off" in line for line in counted)


def test_only_missing_packages_are_no_failure(checkout, capfd):
    (checkout / "tests" / "model" / "test_renamed.py").unlink()
    assert main([str(checkout), "tests/model", "-k", "imports or wraps"]) == 0
    assert "0 of 3 passed, 3 failed" in capfd.readouterr().out


def test_without_the_shims(checkout, capfd):
    assert main([str(checkout), "--without-shims", "tests/metrics", "-k", "shims"]) == 1
    assert "0 of 1 passed, 1 failed" in capfd.readouterr().out


def test_the_commit_is_reported(checkout, capfd):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", str(checkout), *identity, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "as it is")
    revision = git("rev-parse", "--short=8", "HEAD")
    assert commit(checkout) == f"commit {revision}"
    (checkout / "setup.py").write_text("", encoding="utf-8")
    assert main([str(checkout), "tests/metrics", "-k", "shims"]) == 0
    assert f", commit {revision} with local changes; Python" in capfd.readouterr().out


def test_bad_checkouts(checkout, tmp_path, capfd):
    with pytest.raises(UserError, match=r"there is no folder '.*nowhere': give the path"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"'.*data' is no checkout of RecBole's repository"):
        main([str(checkout / "tests" / "data")])
    with pytest.raises(UserError, match=r"pytest ended with status 5 and ran no test"):
        main([str(checkout), "tests/metrics", "-k", "of_another_name"])
    (checkout / "recbole" / "__init__.py").write_text('__version__ = "1.0.1"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"is RecBole 1\.0\.1, but .* is installed: check out the commit of "):
        main([str(checkout)])
