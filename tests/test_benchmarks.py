"""Benchmarks are run rarely and by hand: these tests check that they still start."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks import recommend, starts
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import write_planted
from tests import warm

FOLDER = Path(benchmarks.__file__).parent


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_benchmark_finds_what_it_imports(name):
    importlib.import_module(f"benchmarks.{name}")


def test_recommend(capsys, tmp_path):
    recommend.main(["stream", "--users=50", "--items=30", "--width=4", "--k=5", f"--out={tmp_path / 'recs.jsonl'}"])
    assert capsys.readouterr().out.startswith("50 users x 5 of 30 items, width 4: ")
    assert len((tmp_path / "recs.jsonl").read_text().splitlines()) == 50
    folder = write_planted(tmp_path)
    reduced = tmp_path / "reduced"
    features, held_out = recommend._without_a_tenth(folder, reduced)
    assert len((reduced / "reduced.item").read_text().splitlines()) == 1 + 48 - 4
    assert {modality: rows.shape for modality, rows in features.items()} == {"image": (4, 8), "text": (4, 6)}
    names = next(iter(held_out.values()))[1]
    # the first feature of an item of planted data is its number
    assert [f"i{number:.0f}" for number in features["image"][:, 0]] == list(names)


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


# python benchmarks/NAME.py, from another folder and without PYTHONPATH
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def test_benchmarks_run_by_path():
    names = [
        path.stem
        for path in sorted(FOLDER.glob("*.py"))
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert {"train_step", "scale", "distributed", "memory"} <= set(names)
    for name in names:
        done = warm.python(str(FOLDER / f"{name}.py"), "--help", env=ENVIRONMENT)
        assert done.returncode == 0 and not done.stderr, f"{name}: {done.stderr}"
        assert done.stdout.startswith("usage: ") and name in done.stdout


def test_children_of_a_benchmark_that_is_run_by_path():
    """Its processes are started anew and import it again, and so is it itself."""
    sizes = ["users=40", "items=30", "pairs=160", "batch=32"]
    command = [sys.executable, str(FOLDER / "models.py"), "VBPR", "--steps=1", "--sizes", *sizes]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "VBPR" in done.stdout, done.stderr
