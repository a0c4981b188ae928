"""The wheel works from any folder."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CHECK = """
from pathlib import Path
import recbole_mambarec, dataset_prep
from recbole.config import Config
site = Path(__SITE__)
assert site in Path(recbole_mambarec.__file__).parents, recbole_mambarec.__file__
assert site in Path(dataset_prep.__file__).parents
config = Config("MambaRec", "ml-100k")
print(config["n_ui_layers"], config["seed"], sorted(config["derive_modalities"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # a copy, because setuptools leaves its own folders beside what it builds
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("recbole_mambarec", "recbole_mambarec_command", "dataset_prep", "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_packages_and_properties_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "properties").rglob("*.*"):
        assert f"recbole_mambarec/properties/{path.relative_to(ROOT / 'properties')}" in names
    for package in ("recbole_mambarec", "recbole_mambarec_command", "dataset_prep"):
        for path in [*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.html")]:
            assert str(path.relative_to(ROOT)) in names
    ours = {"recbole_mambarec", "recbole_mambarec_command", "dataset_prep"}
    assert {name.split("/")[0].split("-")[0] for name in names} == ours


def test_an_installed_wheel_works_elsewhere(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(site), str(wheel)], check=True
    )
    code = CHECK.replace("__SITE__", repr(str(site)))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4 999 ['genre', 'text']"
