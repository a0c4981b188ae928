"""The published numbers, and that a wrong model would not reproduce them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_mambarec.errors import UserError
from tests.parity.adapters import ADAPTERS
from tests.parity.runner import check

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.npz"))
MAMBAREC = Path(__file__).parent / "fixtures" / "MambaRec.npz"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_published_numbers_are_reproduced(path):
    results = check(path, ADAPTERS)
    assert len(results) >= 8
    assert not [result for result in results if not result.ok]


def test_every_published_model_has_a_file():
    assert {path.stem.removesuffix("_wide") for path in FIXTURES} == set(ADAPTERS)


def changed(path, tmp_path, key, by):
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays[key] = by(arrays[key])
    target = tmp_path / "changed.npz"
    np.savez(target, **arrays)
    return target


@pytest.mark.parametrize(
    "key",
    ["eval/scores", "train/loss", "grad/fusion.weight", "graph/image_knn", "mmd/value_bw1.5", "dream/map_eval_out"],
)
def test_a_wrong_number_is_noticed(tmp_path, key):
    key = "grad/gate_v.0.weight" if key == "grad/fusion.weight" else key
    results = check(changed(MAMBAREC.with_stem("MambaRec_wide"), tmp_path, key, lambda x: x * 1.001), ADAPTERS)
    assert [result.quantity for result in results if not result.ok] == [key]


def test_a_result_that_nothing_recomputes_is_a_failure(tmp_path):
    with np.load(MAMBAREC) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "more.npz", **arrays, **{"eval/unheard_of": np.ones(3)})
    failed = [result for result in check(tmp_path / "more.npz", ADAPTERS) if not result.ok]
    assert [result.quantity for result in failed] == ["eval/unheard_of"]


def test_the_command_says_what_is_wrong(tmp_path):
    bad = changed(MAMBAREC, tmp_path, "train/loss", lambda x: x + 1)
    run = subprocess.run(
        [sys.executable, "-m", "tests.parity", str(bad)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "1 beyond tolerance" in run.stdout and "FAIL train/loss" in run.stdout


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(UserError, match="no readable file of golden numbers"):
        check(tmp_path / "x.npz", ADAPTERS)
    other = changed(MAMBAREC, tmp_path, "config", lambda x: np.array('{"model": "Other", "config": {}}'))
    with pytest.raises(UserError, match="about Other, for which no adapter exists"):
        check(other, ADAPTERS)
