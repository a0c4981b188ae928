"""Benchmarks are run rarely and by hand: these tests check that they still start."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks import starts
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import write_planted

FOLDER = Path(benchmarks.__file__).parent


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_benchmark_finds_what_it_imports(name):
    importlib.import_module(f"benchmarks.{name}")


def test_starts(tmp_path, capsys):
    folder = write_planted(tmp_path)
    image = np.load(folder / "planted.image.npy")
    starts.main([f"--data_path={tmp_path}", "--dataset=planted", "--models=VBPR,FREEDOM", "--epochs=2", "--knn_k=5"])
    *_, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last)["valid"]
    assert {model: {name: len(curve) for name, curve in curves.items()} for model, curves in found.items()} == {
        model: {"as they are": 2, "length 1": 2} for model in ("VBPR", "FREEDOM")
    }
    assert found["VBPR"]["as they are"] != found["VBPR"]["length 1"]
    np.testing.assert_array_equal(np.load(folder / "planted.image.npy"), image)
    starts.unit_rows(folder, tmp_path / "unit")
    unit = np.load(tmp_path / "unit" / "planted" / "planted.image.npy")
    np.testing.assert_allclose(unit * np.linalg.norm(image, axis=1, keepdims=True), image, atol=1e-4)
    with pytest.raises(UserError, match="is no prepared dataset with features"):
        starts.main([f"--data_path={tmp_path}", "--dataset=other"])


def by_path(name, *arguments):
    """``python benchmarks/NAME.py ARGUMENTS`` from another folder, with installed packages only."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_benchmarks_run_by_path():
    names = [
        path.stem
        for path in sorted(FOLDER.glob("*.py"))
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert {"train_step", "scale", "distributed", "memory"} <= set(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, (out, err) in zip(names, pool.map(lambda name: by_path(name, "--help").communicate(), names)):
            assert out.startswith("usage: ") and name in out and not err, f"{name}: {err}"


def test_children_of_a_benchmark_that_is_run_by_path():
    # its processes are started anew and import it again
    process = by_path("models", "VBPR", "--steps=1", "--sizes", "users=40", "items=30", "pairs=160", "batch=32")
    out, err = process.communicate()
    assert process.returncode == 0 and "VBPR" in out, err
