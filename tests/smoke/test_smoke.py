"""What a user does in the first hour, from an empty folder, with whatever versions are installed.

``nox -s smoke`` runs a copy of this file against the wheel, with ``SMOKE_INSTALLED`` in the environment: then every
command is a fresh process, and nothing of this source tree is imported. The test suite runs it against the tree, with
processes that are forked (:mod:`tests.warm`).
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import random
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

_GROUPS, _PER_GROUP = 4, 9
# a second or two of training
_SMALL = (
    "--embedding_size=8",
    "--train_batch_size=128",
    "--knn_k=5",
    "--show_progress=False",
    "--use_gpu=False",
)
_QUICK = (*_SMALL, "--epochs=3")


# the console script of the wheel; a source tree that is not installed has none
_COMMAND = (
    [os.path.join(sysconfig.get_path("scripts"), "recbole-mambarec")]
    if os.environ.get("SMOKE_INSTALLED")
    else [sys.executable, "-m", "recbole_mambarec"]
)


def call(folder: Path, *arguments: str) -> str:
    """Run ``recbole-mambarec`` in a folder and return what it printed."""
    command = [*_COMMAND, *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONIOENCODING": "utf-8"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    if os.environ.get("SMOKE_INSTALLED"):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    else:
        from tests import warm

        done = warm.python(*command[1:], cwd=folder, env=environment | {"PYTHONPATH": str(warm.ROOT)})
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def need(module: str, extra: str) -> None:
    """Go on only with an extra; the wheel is installed with all that are tried here."""
    if os.environ.get("SMOKE_INSTALLED"):
        importlib.import_module(module)
    else:
        pytest.importorskip(module, reason=f"the extra [{extra}] is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An empty folder with two raw tables: films whose genre says who watches them."""
    need("polars", "prep")
    folder = tmp_path_factory.mktemp("first hour")
    draw = random.Random(7)
    films = {f"f{n}": n % _GROUPS for n in range(_GROUPS * _PER_GROUP)}
    with open(folder / "films.csv", "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["film", "title", "genre"])
        table.writerows([film, f"Die Übung {film}", ["crime", "love", "war", "space"][g]] for film, g in films.items())
    with open(folder / "ratings.csv", "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["viewer", "film", "rating", "timestamp"])
        for viewer in range(60):
            own = [film for film, group in films.items() if group == viewer % _GROUPS]
            table.writerows(
                [f"v{viewer}", film, 5, 10**9 + 60 * viewer + k] for k, film in enumerate(draw.sample(own, 8))
            )
    return folder


@pytest.fixture(scope="module")
def prepared(place) -> Path:
    """The folder with a dataset made of the tables."""
    columns = ("--user-column=viewer", "--item-column=film", "--item-id-column=film", "--text-columns=title,genre")
    tables = ("--interactions=ratings.csv", "--items=films.csv", "--name=films", "--text-width=16")
    call(place, "prepare", "csv", *tables, *columns)
    return place


@pytest.fixture(scope="module")
def compared(prepared) -> Path:
    """The folder with recorded runs of two models of ours and one of RecBole's."""
    models = "--models=MambaRec,BM3,LightGCN"
    call(prepared, "compare", models, "--dataset=films", "--runs=runs.jsonl", *_QUICK)
    return prepared


def test_what_is_installed():
    import recbole

    import recbole_mambarec

    assert recbole_mambarec.__version__ == metadata.version("recbole-mambarec")
    assert recbole.__version__ == metadata.version("recbole") == "1.2.1"
    if os.environ.get("SMOKE_INSTALLED"):
        # the wheel, not a source tree
        assert Path(recbole_mambarec.__file__).is_relative_to(sys.prefix)


def test_prepare(prepared):
    folder = prepared / "dataset" / "films"
    card = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert list(card["modalities"]) == ["text"]
    lines = [part.read_text(encoding="utf-8").splitlines()[1:] for part in folder.glob("films.*.inter")]
    assert len(lines) == 3 and sum(map(len, lines)) == 60 * 8
    call(prepared, "prepare", "check", str(folder))


def test_run_on_the_embedded_data(tmp_path):
    out = call(tmp_path, "run", "--model=VBPR", *_SMALL, "--epochs=1")
    assert "test result" in out
    assert list((tmp_path / "saved").glob("VBPR*.pth"))


def test_compare(compared):
    records = [json.loads(line) for line in (compared / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["model"] for r in records] == ["MambaRec", "BM3", "LightGCN"]
    assert {r["status"] for r in records} == {"finished"}
    # whoever watches one genre alone gets most of it right: 20 of 36 films, with 9 of the genre
    assert all(0.3 < r["test"]["train"]["recall@20"] <= 1 for r in records)
    assert len(list((compared / "per_user").glob("*.parquet"))) == 3


def test_tune_with_two_trials(prepared):
    need("hyperopt", "hyperopt")
    (prepared / "two.hyper").write_text("n_mm_layers choice [1, 2]\n", encoding="utf-8")
    out = call(
        prepared,
        "tune",
        "--model=MambaRec",
        "--dataset=films",
        "--params_file=two.hyper",
        "--jobs=2",
        "--write-best=best.yaml",
        *_QUICK,
    )
    assert "trial 1 of 2" in out and "trial 2 of 2" in out
    assert "n_mm_layers" in (prepared / "best.yaml").read_text(encoding="utf-8")


def test_tune_on_ray(prepared):
    if not os.environ.get("SMOKE_INSTALLED"):
        pytest.skip("searches of the tree on ray are in tests/experiments/test_on_ray.py")
    need("ray.tune", "ray")
    (prepared / "ray.hyper").write_text("n_ui_layers choice [1, 2]\n", encoding="utf-8")
    call(
        prepared,
        "tune",
        "--model=MambaRec",
        "--dataset=films",
        "--params_file=ray.hyper",
        "--tool=ray",
        "--grace=0",
        "--write-best=best-of-ray.yaml",
        *_QUICK,
    )
    assert "n_ui_layers" in (prepared / "best-of-ray.yaml").read_text(encoding="utf-8")


def test_report(compared):
    need("matplotlib", "report")
    call(compared, "report", "runs.jsonl", "--out=report")
    page = (compared / "report" / "index.html").read_text(encoding="utf-8")
    assert "LightGCN" in page and list((compared / "report").rglob("*.svg"))
    assert "\\begin{tabular}" in (compared / "report" / "tables.tex").read_text(encoding="utf-8")
