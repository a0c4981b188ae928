"""tools/install.py: what it installs, and its messages."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "install.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("install_tool", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(tool, monkeypatch, tmp_path):
    """The arguments that pip is called with, in an environment with the torch ``calls.torch``, or none."""

    class Calls(list):
        torch = ""
        constraints = ""

    seen = Calls()

    def install(self, what, *arguments):
        seen.append((what, *arguments))
        if "-c" in arguments:
            seen.constraints = Path(arguments[arguments.index("-c") + 1]).read_text(encoding="utf-8")
        if what == "torch":
            seen.torch = tool.pinned("torch")

    monkeypatch.setattr(tool.Pip, "install", install)
    monkeypatch.setattr(tool.Pip, "need_pip", lambda self: None)
    monkeypatch.setattr(tool, "installed", lambda python, name: seen.torch)
    monkeypatch.setattr(tool, "version_of", lambda python: sys.version_info[:2])
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv").mkdir()
    return seen


def failing(output, status=1):
    """The start of a child process that prints ``output`` and fails, in place of pip."""
    start = subprocess.Popen
    code = f"import sys; print({output!r}); sys.exit({status})"
    return lambda command, **options: start([sys.executable, "-c", code], **options)


def test_old_pythons_understand_the_script():
    source = SCRIPT.read_bytes()
    assert source.isascii()  # Python 2 wants a declaration otherwise
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.Await, ast.YieldFrom)
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, newer), ast.dump(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            assert not any(isinstance(each, ast.Starred) for each in node.elts), ast.dump(node)
        if isinstance(node, ast.Raise):
            assert node.cause is None
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            assert not (arguments.kwonlyargs or arguments.posonlyargs or node.returns)
            assert all(each.annotation is None for each in arguments.args)


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 9), (3, 15)])
def test_an_unsuitable_python_gets_one_sentence(tool, version, monkeypatch, capsys):
    monkeypatch.setattr(tool.sys, "version_info", version)
    monkeypatch.setattr(tool, "version_of", lambda python: (3, 12) if python == "python3.12" else None)
    assert tool.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Python 3.10 to 3.14 is needed (")
    assert "make run PYTHON=python3.12" in error and error.count("\n") == 1


def test_no_suitable_python(tool, monkeypatch):
    monkeypatch.setattr(tool, "version_of", lambda python: None)
    assert tool.other_pythons().startswith("install one, then make run PYTHON=python3.14")


def test_torch_then_the_package_then_recbole_without_its_requirements(tool, calls, capsys):
    assert tool.main(["--extras=report,compare", "--torch-index=https://wheels.example/cpu"]) == 0
    torch, package, recbole = calls
    assert torch == ("torch", "torch==" + tool.pinned("torch"), "--index-url", "https://wheels.example/cpu")
    assert package[-2:] == ("-e", f"{ROOT}[compare,report]")
    assert recbole[1:] == ("--no-deps", "recbole==" + tool.pinned("recbole"))
    assert calls.constraints == (ROOT / "constraints.txt").read_text()
    assert "https://wheels.example/cpu" in capsys.readouterr().out


def test_an_installed_torch_is_kept(tool, calls, capsys):
    calls.torch = "2.9.1+cu126"
    assert tool.main(["--torch-index=https://wheels.example/cu130", "--make=run"]) == 0
    assert [call[0] for call in calls] == ["recbole_mambarec", "RecBole"]
    assert "\ntorch==2.9.1+cu126\n" in calls.constraints
    assert "torchvision" not in calls.constraints
    assert (
        "torch 2.9.1+cu126 is installed and is kept; https://wheels.example/cu130 is not used (for another torch, "
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize("python,torch,least", [((3, 10), "2.3.1", "2.4"), ((3, 13), "2.5.1+cpu", "2.6")])
def test_a_torch_that_is_too_old(tool, calls, monkeypatch, capsys, python, torch, least):
    calls.torch = torch
    monkeypatch.setattr(tool, "version_of", lambda name: python)
    assert tool.main(["--any-python"]) == 2
    assert f"torch {torch} is installed, but {least} or newer is needed: pip install" in capsys.readouterr().err
    assert not calls


def test_nothing_is_done_twice_and_extras_add_up(tool, calls, monkeypatch):
    assert tool.main(["--extras=report"]) == tool.main([]) == tool.main(["--extras=report"]) == 0
    assert [call[0] for call in calls] == ["torch", "recbole_mambarec[report]", "RecBole"]
    tool.main(["--extras=ray"])
    assert [call[0] for call in calls[3:]] == ["recbole_mambarec[ray,report]", "RecBole"]
    monkeypatch.setattr(tool, "tree_key", lambda: "changed constraints")
    tool.main([])
    assert [call[0] for call in calls[5:]] == ["recbole_mambarec[ray,report]", "RecBole"]


def test_a_failed_installation_is_tried_again(tool, calls, monkeypatch):
    def fail(self, what, *arguments):
        raise tool.Fault("pip could not")

    monkeypatch.setattr(tool.Pip, "install", fail)
    assert tool.main([]) == tool.main([]) == 2
    assert not Path(".venv", "installed.json").exists()


@pytest.mark.parametrize(
    "system,machine,size,cuda",
    [("Linux", "x86_64", "2.9 GB", True), ("Windows", "AMD64", "245 MB", False), ("Darwin", "arm64", "234 MB", False)],
)
def test_the_download_is_announced_with_its_size(tool, calls, monkeypatch, capsys, system, machine, size, cuda):
    monkeypatch.setattr(tool.platform, "system", lambda: system)
    monkeypatch.setattr(tool.platform, "machine", lambda: machine)
    assert tool.main(["--make=run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"downloading up to {size}: torch")
    assert ("use TORCH_INDEX=https://download.pytorch.org/whl/cpu" in out) == cuda


def test_an_environment_of_another_python(tool, calls, monkeypatch, capsys):
    monkeypatch.setattr(tool, "version_of", lambda python: (3, 10) if sys.version_info[:2] != (3, 10) else (3, 11))
    assert tool.main(["--make=test PYTHON=python3.99"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("is wanted: make clean, then make test PYTHON=python3.99\n")
    assert error.startswith("error: the environment .venv was made by Python 3.1") and error.count("\n") == 1
    assert tool.main(["--any-python"]) == 0
    monkeypatch.setattr(tool, "version_of", lambda python: (3, 8))
    assert tool.main(["--any-python"]) == 2
    assert "was made by Python 3.8" in capsys.readouterr().err


def test_an_environment_whose_python_does_not_start(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv").mkdir()
    assert tool.main([]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: the environment .venv is broken, its Python does not start: delete the folder .venv, then the same "
        "command again\n"
    )
    (tmp_path / "file").write_text("")
    assert tool.main(["--venv=file"]) == 2
    assert capsys.readouterr().err == "error: file is not a folder: move it away, then the same command again\n"


def test_a_python_without_venv_leaves_nothing(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool.subprocess, "Popen", failing("The virtual environment was not created.\nno ensurepip"))
    (tmp_path / "half").mkdir()
    with pytest.raises(tool.Fault, match=r"cannot make an environment \(no ensurepip\).*apt install python3\.\d+-venv"):
        tool.make_environment("half", "make run")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize(
    "output,sentence",
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n"
            "ERROR: Could not find a version that satisfies the requirement torch==9 (from versions: none)\n"
            "ERROR: No matching distribution found for torch==9",
            "pip could not download torch: check the network",
        ),
        (
            "ERROR: No matching distribution found for torch==9",
            "https://wheels.example/cpu has no build of torch==9 for Python 3.",
        ),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
        (
            "error: externally-managed-environment\n\n× This environment",
            "the Python of the operating system accepts no",
        ),
        ("ERROR: something new", "pip could not install torch: see the lines above, the output of pip is in "),
    ],
)
def test_a_failure_of_pip_is_a_few_lines_and_a_sentence(tool, tmp_path, monkeypatch, capsys, output, sentence):
    log = tmp_path / "install.log"
    wall = "\n".join(f"ERROR: pip looked at release {k}" for k in range(50)) + "\n"
    monkeypatch.setattr(tool.subprocess, "Popen", failing(wall + output))
    pip = tool.Pip(sys.executable, str(log), "make run")
    monkeypatch.setattr(pip, "version", lambda: (3, 12))
    with pytest.raises(tool.Fault, match="^" + re.escape(sentence)):
        pip.install("torch", "torch==9", "--index-url", "https://wheels.example/cpu")
    shown = capsys.readouterr().err.splitlines()
    assert 1 <= len(shown) <= 3
    assert "release 1\n" in log.read_text(encoding="utf-8", errors="replace").replace("\r", "")


def test_only_large_downloads_are_shown(tool, tmp_path, monkeypatch, capsys):
    output = "Collecting a\n  Downloading a.whl (20 kB)\nCollecting b\n  Downloading b.whl (526.6 MB)\nInstalling: a, b"
    monkeypatch.setattr(tool.subprocess, "Popen", failing(output, status=0))
    tool.Pip(sys.executable, str(tmp_path / "log"), "make run").install("torch", "torch==9")
    assert capsys.readouterr().out == "installing torch\n  Downloading b.whl (526.6 MB)\n"


def test_an_extra_that_does_not_exist(tool, capsys):
    assert tool.main(["--extras=dev,reports"]) == 2
    assert "there is no extra 'reports': use hyperopt, ray, " in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="starts make")
@pytest.mark.parametrize("python,status", [("python3.99", 2), ("/nonexistent/python3", 2)])
def test_make_with_a_missing_python(python, status):
    done = subprocess.run(
        ["make", "-C", ROOT, "run", f"PYTHON={python}"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == status
    assert (
        f"error: there is no {python} that starts: install it, or name another Python (make run PYTHON=" in done.stderr
    )


def test_the_stamp_is_written_at_once(tool, tmp_path):
    stamp = tmp_path / "installed.json"
    tool.write_stamp(str(stamp), {"key": "k", "extras": []})
    assert json.loads(stamp.read_text()) == tool.read_stamp(str(stamp)) == {"key": "k", "extras": []}
    stamp.write_text("{half")
    assert tool.read_stamp(str(stamp)) == {}
