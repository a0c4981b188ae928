"""The wheel works from any folder, and its metadata agree with the other files of the project."""

import configparser
import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import recbole_mambarec
from recbole_mambarec_command import requirements

ROOT = Path(__file__).resolve().parents[1]

PYTHONS = [f"3.{minor}" for minor in range(requirements.OLDEST_PYTHON[1], requirements.NEWEST_PYTHON[1] + 1)]

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
    for name in (*requirements.OUR_PACKAGES, "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_packages_and_properties_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "properties").rglob("*.*"):
        assert f"recbole_mambarec/properties/{path.relative_to(ROOT / 'properties').as_posix()}" in names
    for package in requirements.OUR_PACKAGES:
        for path in [*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.html")]:
            assert path.relative_to(ROOT).as_posix() in names
    assert {name.split("/")[0].split("-")[0] for name in names} == set(requirements.OUR_PACKAGES)


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


@pytest.fixture(scope="module")
def metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(archive.read(name))


def declared():
    """Requirements of setup.cfg, those of extras included."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_metadata_of_the_wheel(metadata, wheel):
    assert metadata["Name"] == "recbole-mambarec"
    assert metadata["Version"] == recbole_mambarec.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == f">={PYTHONS[0]}"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier")
    assert [f"Programming Language :: Python :: {python}" for python in PYTHONS] == [
        each for each in classifiers if re.search(r"Python :: 3\.", each)
    ]
    assert "Typing :: Typed" in classifiers
    assert metadata.get_all("Project-URL")
    names = zipfile.ZipFile(wheel).namelist()
    assert "recbole_mambarec/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_requirements_of_the_wheel_can_be_resolved(metadata):
    """RecBole's own requirements have no solution on Python 3.12 and newer, ray is large."""
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert "recbole" not in {requirement.name for requirement in asked}
    always = {each.name for each in asked if each.marker is None or "extra" not in str(each.marker)}
    assert "torch" in always and "ray" not in always


def test_everything_that_recbole_imports_is_required():
    """Optional in RecBole: what needs a compiler, is an extra here, or belongs to single models."""
    optional = {
        *("dgl", "torch_scatter", "torch_geometric", "xgboost", "lightgbm", "faiss", "wandb", "kmeans_pytorch"),
        *("hyperopt", "ray", "plotly", "community", "networkx"),
    }
    folder = Path(importlib.util.find_spec("recbole").origin).parent
    imported = set()
    for path in folder.rglob("*.py"):
        imported |= set(
            re.findall(r"(?m)^ *(?:import|from) +(\w+)(?=[\w.]*(?: +(?:import|as) |$))", path.read_text("utf-8"))
        )
    others = imported - set(sys.stdlib_module_names) - optional - {"recbole"}
    assert {"torch", "colorlog", "psutil", "thop"} <= others
    modules = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
    needed = {modules.get(each.name, each.name) for each in requirements.declared() if each.extra is None}
    assert others <= needed


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_one_allowed_release_of_every_requirement(python):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                (specifier,) = pin.specifier
                assert specifier.operator == "==" and canonicalize_name(pin.name) not in pins, line
                pins[canonicalize_name(pin.name)] = specifier.version
    for requirement in declared():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert pins["recbole"] == requirements.RECBOLE


def test_versions_are_the_same_everywhere():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'recbole = ["recbole=={requirements.RECBOLE}"]' in project
    assert f'name = "recbole"\nversion = "{requirements.RECBOLE}"\nrequires-dist = []' in project
    assert f"\nversion: {recbole_mambarec.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    spec = importlib.util.spec_from_file_location("install_tool", ROOT / "tools" / "install.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (tool.OLDEST, tool.NEWEST) == (requirements.OLDEST_PYTHON, requirements.NEWEST_PYTHON)


@pytest.mark.parametrize(
    "arguments,status",
    [
        (["-c", "import recbole_mambarec"], 1),
        (["-m", "recbole_mambarec", "--model=BPR"], 2),
        (["-m", "recbole_mambarec.report", "runs.jsonl"], 2),
        ([str(ROOT / "run_hyper.py"), "--model=BPR"], 2),
    ],
    ids=lambda value: " ".join(value[:2]).replace(str(ROOT), "") if isinstance(value, list) else str(value),
)
def test_without_recbole_there_is_one_sentence(tmp_path, arguments, status):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['recbole'] = None\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith(
        "recbole_mambarec needs RecBole 1.2.1, which is not installed: pip install --no-deps recbole==1.2.1"
    )
    assert status == 1 or len(done.stderr.strip().splitlines()) == 1
