"""Benchmarks run by hand and rarely: they should at least still be there when somebody wants one."""

import importlib
import json
import pkgutil

import numpy as np
import pytest

import benchmarks
from benchmarks import starts
from recbole_mambarec.errors import UserError
from tests.planted import write_planted


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
