"""recbole-mambarec as a user types it, and its messages if something is missing or broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_mambarec import registry
from recbole_mambarec.testing.planted import write_planted
from recbole_mambarec_command import command, command_line, doctor, requirements
from recbole_mambarec_command.requirements import Requirement
from tests import warm

ROOT = Path(__file__).resolve().parents[1]
# without anything but the standard library: no package is found
BARE = (sys.executable, "-S")


def typed(*arguments, python=(sys.executable,), path=(), module="recbole_mambarec", **variables):
    """``python -m recbole_mambarec ARGUMENTS``, with folders of ``path`` before everything else."""
    places = os.pathsep.join([*map(str, path), str(ROOT)])
    return subprocess.run(
        [*python, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": places, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def in_process(monkeypatch, capsys, *arguments, argv0="recbole-mambarec"):
    """The command line in this process: status, output, errors."""
    monkeypatch.setattr("sys.argv", [argv0, *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    return stop.value.code, *capsys.readouterr()


@pytest.fixture(autouse=True)
def _called_as_before(monkeypatch):
    monkeypatch.setattr(command_line, "_typed", command_line._typed)


# ------------------------------------------------------------------------------------------------------------
# the table


def test_help_and_version_need_nothing_that_is_installed():
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        done = typed(*arguments, python=BARE)
        assert done.returncode == 0 and not done.stderr, done.stderr
        for name, entry in command.COMMANDS.items():
            assert f"  {name} " in done.stdout and entry.summary in done.stdout
        assert "python -m recbole_mambarec run --model=" in done.stdout
    done = typed("--version", python=BARE)
    assert done.returncode == 0 and "torch missing" in done.stdout


def test_help_says_what_was_typed(monkeypatch, capsys):
    status, out, _ = in_process(monkeypatch, capsys, argv0="/somewhere/bin/recbole-mambarec")
    assert status == 0 and out.startswith("usage: recbole-mambarec COMMAND") and "python -m" not in out
    assert command_line.typed("run") == "recbole-mambarec run"


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_has_help_of_its_own_under_its_name(monkeypatch, capsys, name):
    for arguments in ([name, "--help"], ["help", name]):
        status, out, _ = in_process(monkeypatch, capsys, *arguments)
        assert status == 0 and out.startswith(f"usage: recbole-mambarec {name}")


@pytest.mark.parametrize(
    ("module", "usage"),
    [("dataset_prep", "dataset_prep"), ("recbole_mambarec.experiments.group", "recbole_mambarec.experiments.group")],
)
def test_scripts_have_their_own_names_in_their_usage(module, usage):
    done = warm.python("-m", module, "--help", cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m {usage} ")


def test_examples_of_preparing_are_those_that_work(monkeypatch, capsys):
    _, out, _ = in_process(monkeypatch, capsys, "prepare", "mmssl", "--help")
    assert "example: recbole-mambarec prepare lattice downloads/sports" in " ".join(out.split())


@pytest.mark.parametrize(
    ("given", "advice"), [("tun", "did you mean tune"), ("train", "run"), ("qqq", "use one of prepare, run, compare")]
)
def test_an_unknown_command(monkeypatch, capsys, given, advice):
    status, _, err = in_process(monkeypatch, capsys, given, "--model=BPR")
    assert status == 2 and err.startswith(f"error: '{given}' is not a command")
    assert advice in err and err.count("\n") == 1


def test_commands_that_are_named_in_messages_exist():
    for entry in command.COMMANDS.values():
        assert callable(command._function(entry.target))


def test_a_run_with_and_without_its_name(tmp_path, monkeypatch, capsys):
    write_planted(tmp_path)
    options = ["--model=BPR", "--dataset=planted", f"--data_path={tmp_path}", "--epochs=1", "--show_progress=False"]
    status, named, err = in_process(monkeypatch, capsys, "run", *options)
    assert status == 0 and "test result" in named
    # RecBole warns of arguments that are no configuration, as the name of a command would be
    assert "`run`" not in err + named and "command line args" not in err
    status, bare, _ = in_process(monkeypatch, capsys, *options)
    assert status == 0 and bare.splitlines()[-2:] == named.splitlines()[-2:]


def test_a_run_on_several_processes(tmp_path):
    write_planted(tmp_path)
    options = ["--model=BPR", "--dataset=planted", f"--data_path={tmp_path}", "--epochs=1", "--show_progress=False"]
    done = warm.python(
        "-m",
        "recbole_mambarec",
        "run",
        *options,
        "--nproc=2",
        "--port=5713",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "test result" in done.stdout.splitlines()[-1]


def test_a_comparison_is_made_and_reported(tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    write_planted(tmp_path)
    options = ["--models=BPR", "--dataset=planted", "--runs=mine.jsonl", f"--data_path={tmp_path}", "--epochs=1"]
    status, _, err = in_process(monkeypatch, capsys, "compare", *options)
    assert status == 0, err
    status, _, err = in_process(monkeypatch, capsys, "report", "mine.jsonl", "--page=planted.md")
    assert status == 0, err
    page = Path("planted.md").read_text(encoding="utf-8")
    assert "python -m recbole_mambarec compare --models=BPR --dataset=planted" in page


def test_significance_of_recorded_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    from tests.report.synthetic import Synthetic

    made = Synthetic(tmp_path, users=0.05)
    made.comparison(["BPR", "VBPR", "MambaRec"], ["baby", "sports"])
    made.add("LightGCN", "sports", 999, 0.1)
    status, out, _ = in_process(monkeypatch, capsys, "significance", "runs.jsonl", "--dataset=baby")
    assert status == 0 and out.startswith("baby, recall@20 (mask: train)\n") and "paired by user" in out
    assert {line.split()[0] for line in out.splitlines()[3:6]} == {"BPR", "VBPR", "MambaRec"}
    status, out, _ = in_process(monkeypatch, capsys, "significance", "runs.jsonl", "--by=seed", "--metric=NDCG@20")
    assert status == 0 and out.count("paired by seed (n = 3: 999, 1000, 1001)") == 2
    assert "left out, with one seed: LightGCN" in out and "this test cannot give a p-value below 0.25" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["none.jsonl"], "there is no file of runs none.jsonl: `recbole-mambarec compare` writes one"),
        (["runs.jsonl", "--metric=recall@7"], "has no 'recall@7'"),
        (["runs.jsonl", "--models=BPR,Nobody"], "there are no runs of 'Nobody' in these records"),
        (["runs.jsonl", "--models=BPR"], "significance needs at least two models"),
        (["runs.jsonl", "--by=user"], "there are no results per user"),
        (["runs.jsonl", "--by=seed", "--group=single"], "fewer than two seeds in common"),
        (["runs.jsonl", "--alpha=5"], "--alpha must be between 0 and 1"),
        (["runs.jsonl", "--dataset=moon"], "there are no runs on 'moon'"),
    ],
)
def test_mistakes_about_significance(tmp_path, monkeypatch, capsys, options, sentence):
    pytest.importorskip("polars")
    from tests.report.synthetic import Synthetic

    made = Synthetic(tmp_path, users=0.03, bare=True)
    made.comparison(["BPR", "MambaRec"], ["baby"])
    for model in ("BPR", "VBPR"):
        made.add(model, "baby", 999, 0.1, group="single")
    status, _, err = in_process(monkeypatch, capsys, "significance", *options)
    assert status == 2 and sentence in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------
# what is missing


def test_without_anything_installed_a_run_is_one_sentence_and_doctor_works(tmp_path):
    done = typed("run", "--model=BPR", python=BARE)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: recbole_mambarec needs RecBole 1.2.1, which is not installed: pip install ")
    assert "pip install --no-deps recbole==1.2.1" in done.stderr
    script = subprocess.run(
        [*BARE, str(ROOT / "run_hyper.py")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert script.returncode == 2 and script.stderr == done.stderr
    imported = subprocess.run(
        [*BARE, "-c", "import recbole_mambarec"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert imported.stderr.splitlines()[-1].endswith(done.stderr.removeprefix("error: ").rstrip())
    # its child is another Python, which has packages: they are not looked for by this one
    sick = typed("doctor", "--json", python=BARE)
    found = json.loads(sick.stdout)
    assert sick.returncode == 1 and not found["ok"]
    status = {line["name"]: line for line in found["lines"]}
    for name in ("recbole", "torch", "numpy", "scikit-learn"):
        assert status[name]["status"] == "missing" and status[name]["needed"] and name in status[name]["fix"]
    assert status["polars"]["status"] == "missing" and not status["polars"]["needed"]
    assert 'pip install "recbole-mambarec[' in status["polars"]["fix"]


@pytest.fixture
def broken(tmp_path):
    """A folder of packages that raise or end the process when they are imported."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "jinja2.py").write_text("raise AttributeError('module markupsafe has no soft_unicode')\n")
    (folder / "hyperopt.py").write_text("import os\nprint('dying', flush=True)\nos._exit(7)\n")
    (folder / "faiss.py").write_text("import ctypes\nctypes.CDLL('libnowhere.so.1')\n")
    (folder / "xgboost.py").write_text("raise SystemExit('no')\n")
    (folder / "matplotlib.py").write_text("import jinja2\n")
    return folder


def test_doctor_outlives_what_is_broken(broken, tmp_path):
    (tmp_path / "data" / "shop").mkdir(parents=True)
    (tmp_path / "data" / "shop" / "shop.inter").write_text("user_id:token\titem_id:token\n")
    (tmp_path / "data" / "shop" / "shop.audio.npy").write_bytes(b"")
    done = typed("doctor", "--json", f"--data_path={tmp_path / 'data'}", path=[broken])
    found = json.loads(done.stdout)
    lines = {line["name"]: line for line in found["lines"]}
    for name, said in {
        "jinja2": "(AttributeError: module markupsafe has no soft_unicode)",
        "hyperopt": "its import ends the process, exit status 7, after: dying",
        "faiss-cpu": "OSError: libnowhere.so.1",
        "xgboost": "it ends the process with 'no'",
        "matplotlib": "cannot be imported, because jinja2 cannot",
    }.items():
        assert lines[name]["status"] == "broken" and said in lines[name]["detail"], lines[name]
    assert "jinja2" in lines["matplotlib"]["fix"] and "--force-reinstall" in lines["faiss-cpu"]["fix"]
    assert lines["torch"]["status"] in ("ok", "note") and lines["recbole"]["status"] == "ok"
    assert f"{len(registry.built_in())} models of this package" in lines["RecBole with these models"]["detail"]
    assert lines["datasets"]["detail"].endswith("shop (audio)")
    assert str(tmp_path / "cache") in lines["cache of item graphs"]["detail"]
    assert done.returncode == 1 and not found["ok"]


def test_doctor_outlives_what_hangs(tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (first, hangs), (second, fine) = doctor._probed(["endless", "json"], timeout=5)
    assert first == "endless" and hangs["error"] == "its import does not end within 5 seconds"
    assert second == "json" and "error" not in fine


@pytest.mark.parametrize(("module", "extra", "name"), [("jinja2", "report", "jinja2"), ("faiss", "ann", "faiss-cpu")])
def test_a_broken_extra_is_named(broken, monkeypatch, module, extra, name):
    from recbole_mambarec.errors import UserError
    from recbole_mambarec_common.extras import need

    monkeypatch.syspath_prepend(str(broken))
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(UserError, match="which is installed but cannot be imported") as raised:
        need(module, extra, "or do without")
    monkeypatch.delitem(sys.modules, module, raising=False)
    said = str(raised.value)
    assert said.startswith(f"this needs the package {name}") and said.endswith(", or do without")
    assert "pip install --upgrade --force-reinstall" in said


def test_a_broken_torch_is_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("import ctypes\nctypes.CDLL('libcudart.so.12-not-here')\n")
    done = typed("run", "--model=BPR", path=[tmp_path])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "torch" in done.stderr and "libcudart.so.12-not-here" in done.stderr
    assert "pip install --force-reinstall" in done.stderr


def test_another_release_of_recbole_is_refused(monkeypatch):
    monkeypatch.setattr(requirements.metadata, "version", lambda name: "1.1.1")
    with pytest.raises(requirements.MissingRequirement, match=r"needs RecBole 1\.2\.1, but 1\.1\.1 is installed: pip"):
        requirements.check()


def test_pythons_that_are_too_old_or_new(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(requirements.MissingRequirement, match=r"needs Python 3\.10 or newer, but this is 3\.9\.2"):
        requirements.check_python()
    assert [line.status for line in doctor._system() if line.name == "Python"] == [doctor.BROKEN]
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    requirements.check_python()
    assert [line.status for line in doctor._system() if line.name == "Python"] == [doctor.NOTE]
    said = requirements.explained(ModuleNotFoundError("No module named 'thopp'", name="thopp"))
    assert "thopp" in str(said) and "Python 3.99 is newer than" in str(said)


def test_a_defect_of_ours_keeps_its_traceback():
    try:
        {}["missing"]
    except KeyError as error:
        assert requirements.explained(error) is None
    own = ImportError("cannot import name 'x' from 'recbole_mambarec.cli'", name="recbole_mambarec.cli")
    assert requirements.explained(own) is None


def test_an_editable_installation_from_before_a_package_was_added(monkeypatch):
    error = ModuleNotFoundError("No module named 'dataset_prep'", name="dataset_prep")
    assert requirements.explained(error) is None  # it is there, so this is a defect
    monkeypatch.setattr(requirements, "is_installed", lambda module: module != "dataset_prep")
    assert "lacks the package dataset_prep: install it again" in str(requirements.explained(error))


# ------------------------------------------------------------------------------------------------------------
# bounds and torch


@pytest.mark.parametrize(
    ("version", "bounds", "held"),
    [
        ("2.13.0+cpu", ">=2.4", True),
        ("2.3.1", ">=2.4", False),
        ("2.4", ">=2.4.0", True),
        ("81.0", ">=77,<81", False),
        ("80.9", ">=77,<81", True),
        ("1.2.1", "==1.2.1", True),
        ("1.2.1.post1", "!=1.2.1", False),
        ("1.4.9", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("unknown", ">=3", True),
    ],
)
def test_bounds(version, bounds, held):
    assert requirements.satisfies(version, bounds) is held


def test_lines_of_metadata(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    parsed = requirements._parsed
    assert parsed('ray[tune] (<3,>=2.45) ; extra == "ray"') == Requirement("ray", ">=2.45,<3", "ray", "[tune]")
    assert parsed('PyYAML>=6; python_version >= "3.9"') == Requirement("pyyaml", ">=6", None)
    assert parsed('tomli>=2; python_version < "3.11" and extra == "x"') is None
    assert parsed("ray[tune]>=2.45").command == 'pip install --upgrade "ray[tune]>=2.45"'


def test_requirements_are_those_of_setup_cfg():
    declared = requirements.declared()
    assert {"torch", "numpy", "scipy", "pandas"} <= {each.name for each in declared if each.extra is None}
    assert {"ray", "features", "dev"} <= {each.extra for each in declared}
    assert all(each.bounds for each in declared if each.extra is None)
    assert len({(each.name, each.extra) for each in declared}) == len(declared)


def test_lines_of_one_package_are_one_requirement(monkeypatch):
    lines = ["torch>=2.4", "numpy>=1.24", 'torch>=2.6; python_version >= "3.9"', 'torch>=9; python_version < "3.9"']
    monkeypatch.setattr(requirements, "_lines", lambda: lines)
    expected = [("recbole", "==1.2.1"), ("torch", ">=2.4,>=2.6"), ("numpy", ">=1.24")]
    assert [(each.name, each.bounds) for each in requirements.declared()] == expected


@pytest.mark.parametrize(
    ("answer", "driver", "status", "shown", "fix"),
    [
        ({}, None, "ok", "2.9.1, built for the CPU; there is no GPU", None),
        ({}, "12.4", "note", "there is a GPU (H9), which this build cannot use", "whl/cu126"),
        ({"cuda": "12.8", "sees": True, "devices": ["H9"]}, "12.8", "ok", "built for CUDA 12.8, on H9", None),
        (
            {"cuda": "13.0"},
            "11.4",
            "broken",
            "for CUDA up to 11.4) cannot be used: CUDA: too old",
            "whl/cu118",
        ),
        ({"cuda": "13.0"}, None, "ok", "there is no GPU", None),
        (
            {"cuda": "12.6", "sees": True, "devices": ["H9"], "cuda_error": "no kernel image"},
            "13.1",
            "broken",
            "H9 is visible but cannot compute (no kernel image)",
            "whl/cu130",
        ),
        ({"hip": "6.3", "sees": True, "devices": ["MI3"]}, None, "ok", "built for ROCm 6.3, on MI3", None),
    ],
)
def test_the_line_about_torch(monkeypatch, answer, driver, status, shown, fix):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(requirements, "version_of", lambda name: "2.9.1")
    monkeypatch.setattr(doctor, "_nvidia", lambda: driver and doctor._Driver("H9", "1.2", driver))
    nothing = {"version": "2.9.1", "cuda": None, "hip": None, "sees": False, "devices": [], "mps": False}
    answer = nothing | {"warnings": ["CUDA: too old"]} | answer
    line = doctor._torch_line(answer, Requirement("torch", ">=2.4", None))
    assert line.status == status and shown in line.detail
    assert (line.fix or "").endswith(fix or "") and bool(line.fix) == bool(fix)


def test_the_gpu_is_found_by_nvidias_tool(tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    tool = tmp_path / "nvidia-smi"
    header = "| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4 |"
    tool.write_text(f'#!/bin/sh\nif [ -n "$1" ]; then echo "NVIDIA H9, PCIe, 550.54"; else echo "{header}"; fi\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert doctor._nvidia() == doctor._Driver("NVIDIA H9, PCIe", "550.54", "12.4")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert doctor._nvidia() is None


def test_a_broken_package_keeps_the_build_of_torch(monkeypatch):
    monkeypatch.setattr(requirements, "version_of", lambda name: {"torch": "2.9.1+cu126"}.get(name, "1.0"))
    assert requirements.repair_command("torch").endswith("--index-url https://download.pytorch.org/whl/cu126")
    assert "--no-deps torchvision==0.24.* --index-url https" in requirements.repair_command("torchvision")
    assert "--no-deps" in requirements.repair_command("recbole")
