"""Models from other packages: the example under examples/, installed, and faulty packages."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_mambarec import registry
from recbole_mambarec.testing.planted import QUICK, write_planted
from tests import warm

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "outside_model"
MODEL = "AddedFeatures"


def python(*arguments: str, site: Path, cwd: Path) -> subprocess.CompletedProcess:
    """Python in another process that finds this tree and what lies in ``site``."""
    return warm.python(*arguments, cwd=cwd, env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, site)))})


def command(*arguments: str, site: Path, cwd: Path) -> str:
    """The output of a command of this package."""
    done = python("-m", "recbole_mambarec", *arguments, site=site, cwd=cwd)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which the example is installed."""
    folder = tmp_path_factory.mktemp("outside")
    # a copy, because setuptools leaves its own folders beside what it builds
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True)
    return folder / "site"


def options(folder: Path, **overrides) -> list[str]:
    """Options of a quick training on the planted data."""
    write_planted(folder)
    values = {"model": MODEL, "dataset": "planted"} | QUICK | {"data_path": folder, "epochs": 2} | overrides
    return [f"--{key}={value}" for key, value in values.items()]


RESTORE = """
import recbole_mambarec, sys
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
assert "added_features" not in sys.modules
config, model, dataset, _, _, test = load_data_and_model(sys.argv.pop())
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
print(type(model).__module__, type(dataset).__name__, config["reg_weight"])
print(f"RECALL {trainer.evaluate(test, load_best_model=False)['recall@10']:.4f}")
"""


def test_run_and_its_checkpoint(site, tmp_path):
    said = command("run", *options(tmp_path, epochs=15), site=site, cwd=tmp_path).splitlines()
    (tested,) = [line for line in said if line.startswith("test result")]
    score = float(tested.split("recall@10: ")[1].split()[0])
    assert score > 0.6
    (file,) = tmp_path.glob(f"saved/{MODEL}-*.pth")
    done = python("-c", RESTORE, str(file), site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-2:] == [
        "added_features.model MultimodalDataset 0.0001",
        f"RECALL {score:.4f}",
    ]


def test_a_run_of_two_processes(site, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    said = command("run", *options(tmp_path, nproc=2, port=port), site=site, cwd=tmp_path)
    assert "test result" in said


def test_compare_and_report(site, tmp_path):
    arguments = options(tmp_path, model=f"BPR,{MODEL}", seed=7, per_user=False)
    command("compare", *arguments, site=site, cwd=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "results" / "runs.jsonl").read_text().splitlines()]
    assert [(r["model"], r["status"]) for r in records] == [("BPR", "finished"), (MODEL, "finished")]
    assert records[1]["versions"]["added-features"] == "1.0" and "added-features" not in records[0]["versions"]
    command("report", "results/runs.jsonl", "--page=page.md", site=site, cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert f"{MODEL}, published" in page and ".8125" in page


def test_tune(site, tmp_path):
    command("tune", *options(tmp_path), site=site, cwd=tmp_path)
    (file,) = tmp_path.glob(f"tuning/{MODEL}-planted-*/trials.jsonl")
    points = [json.loads(line)["point"] for line in file.read_text().splitlines()]
    assert sorted(point["reg_weight"] for point in points) == [0.0001, 0.001]


def test_its_own_tests(site, tmp_path):
    """The contract, from the package, in a test file of a few lines."""
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 20


# ------------------------------------------------------------------------------------------------------------
# faulty packages


def announce(site: Path, package: str, models: dict[str, str], code: str = "") -> None:
    """A package as pip leaves it behind: a module and its metadata."""
    info = site / f"{package}-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in models.items())
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{lines}")
    (site / f"{package}.py").write_text(code)


@pytest.fixture
def faulty(tmp_path):
    """A folder of packages without a usable model, and one that registers its model without a call."""
    site = tmp_path / "faulty"
    announce(site, "raising", {"Raising": "raising"}, "value = 1\nraise RuntimeError('no good')\n")
    announce(site, "silent", {"Silent": "silent"})
    announce(site, "mine", {"mambarec": "mine", "BPR": "mine"})
    announce(site, "first", {"Twice": "first"})
    announce(site, "second", {"twice": "second"})
    announce(site, "lazy", {"Lazy": "lazy"}, "import recbole_mambarec\nrecbole_mambarec.register('lazy_model:Lazy')\n")
    announce(
        site,
        "direct",
        {"Direct": "direct:Direct"},
        "from recbole_mambarec.models.vbpr import VBPR\nclass Direct(VBPR):\n    pass\n",
    )
    return site


ASK = """
import sys, recbole_mambarec
from recbole_mambarec import registry
from recbole_mambarec.report import published
from recbole.config import Config
for name in sys.argv[1:]:
    try:
        Config(name, "ml-100k")
        print(name, "works")
    except ValueError as error:
        print(type(error).__name__, error)
sys.argv = sys.argv[:1]
print([name for name in registry.names() if name not in registry.built_in()])
print(len(published.read("baby", "train")) > 10)
"""


def test_a_faulty_package_is_one_sentence_and_no_other_model_suffers(faulty, tmp_path):
    models = ("MambaRec", "Raising", "Silent", "Twice", "Lazy", "Direct", "BPR", "Silentt")
    done = python("-c", ASK, *models, site=faulty, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "MambaRec works",
        "UserError the model Raising of the package raising 2.0 cannot be imported (RuntimeError: no good; raising.py, "
        "line 2): repair or uninstall that package",
        "UserError the package silent 2.0 announces a model Silent, but importing silent registers no model of that "
        "name: call recbole_mambarec.register there",
        "UserError the packages first 2.0 and second 2.0 both contain a model Twice: uninstall one",
        "UserError lazy_model:Lazy of the model Lazy of the package lazy 2.0 cannot be imported (ModuleNotFoundError: "
        "No module named 'lazy_model'): repair or uninstall that package",
        "Direct works",
        "BPR works",
        "UserError there is no model 'Silentt': did you mean Silent or RippleNet?",
        "['Lazy', 'Direct', 'Raising', 'Silent']",
        "True",
    ]
    assert "Traceback" not in done.stderr
    warnings = [line for line in done.stderr.splitlines() if "of the package" in line]
    for name, owner in (("mambarec", "recbole_mambarec.models.mambarec:MambaRec"), ("BPR", "RecBole's recbole.model")):
        (warning,) = [line for line in warnings if f"the model {name} of the package mine 2.0 is left out" in line]
        assert f"taken by {owner}" in warning


def test_the_doctor_names_faulty_packages(faulty, tmp_path):
    done = python("-m", "recbole_mambarec", "doctor", "--json", site=faulty, cwd=tmp_path)
    lines = [line for line in json.loads(done.stdout)["lines"] if line["section"] == "Models of other packages"]
    assert done.returncode == 1
    assert {line["name"]: line["status"] for line in lines} == {
        **{"Direct": "ok", "Lazy": "broken", "Raising": "broken", "Silent": "broken", "Twice": "broken"}
    }
    assert "RuntimeError: no good; raising.py, line 2" in next(x["detail"] for x in lines if x["name"] == "Raising")


def test_a_name_that_an_installed_package_announces_is_taken(faulty, tmp_path):
    code = "import recbole_mambarec\nrecbole_mambarec.register('elsewhere:Raising')"
    done = python("-c", code, site=faulty, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ValueError: model name 'Raising' of elsewhere:Raising is taken by raising 2.0: choose another"
    )


def test_files_of_a_model_must_be_there(tmp_path, monkeypatch):
    import recbole_mambarec

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nofiles.py").write_text("")
    for field in ("defaults", "search_space", "published"):
        with pytest.raises(ValueError, match=f"{field} of the model NoFiles is not a .*{field}.x does not exist"):
            recbole_mambarec.register("nofiles:NoFiles", **{field: f"{field}.x"})
    assert "NoFiles" not in registry.names()
