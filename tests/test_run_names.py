"""Runs that start at the same moment have different files."""

import datetime
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import recbole.utils
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import run_recbole
from recbole.trainer import trainer as trainers
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mambarec.testing.planted import QUICK, write_planted


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch):
    now = datetime.datetime(2025, 3, 9, 12, 30, 1)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda: now))
    monkeypatch.setattr("recbole.utils.utils.datetime", clock)


def build(folder, model, **overrides):
    settings = QUICK | {"data_path": str(folder.parent), "state": "ERROR", "epochs": 3} | overrides
    config = Config(model, folder.name, config_dict=settings)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, loaders[0].dataset))
    return trainer, *loaders


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "RecVAE", "EASE", "MambaRec", "VBPR"])
def test_trainers_that_start_in_the_same_second_have_different_files(tmp_path, model):
    folder = write_planted(tmp_path)
    files = [Path(build(folder, model)[0].saved_model_file) for _ in range(2)]
    assert files[0] != files[1]
    for file in files:
        assert file.match(f"saved/{model}-Mar-09-2025_12-30-01-*.pth")


def test_a_decision_tree_has_its_own_files(tmp_path):
    config = Config("BPR", write_planted(tmp_path).name, config_dict={"data_path": str(tmp_path)})
    names = ("temp_file", "temp_best_file", "saved_model_file")
    files = [getattr(trainers.DecisionTreeTrainer(config, None), name) for _ in range(2) for name in names]
    assert len(set(files)) == 6
    assert [file.endswith("-temp.pth") for file in files] == [True, False, False] * 2


@pytest.mark.parametrize("model", ["BPR", "MambaRec"])
def test_a_run_is_tested_with_its_own_parameters(tmp_path, model):
    """Two trainings side by side, the second of which learns nothing."""
    folder = write_planted(tmp_path)
    expected = []
    for rate in (0.05, 1e-9):
        trainer, train, valid, test = build(folder, model, learning_rate=rate, checkpoint_dir=f"alone{rate}")
        trainer.fit(train, valid, verbose=False)
        expected.append(trainer.evaluate(test))
    together = []
    for rate in (0.05, 1e-9):
        run = build(folder, model, learning_rate=rate)
        run[0].fit(*run[1:3], verbose=False)
        together.append(run)
    assert [trainer.evaluate(test) for trainer, _, _, test in together] == expected
    assert expected[0] != expected[1]


def test_a_run_has_its_own_log_and_tensorboard_folder(tmp_path):
    folder = write_planted(tmp_path, name="planted.v2")
    for model in ("BPR", "BPR", "MambaRec"):
        # RecBole adds a file only where nothing is logged yet
        logging.getLogger().handlers.clear()
        run_recbole(model, folder.name, config_dict=QUICK | {"data_path": str(tmp_path), "epochs": 1})
    logs = sorted(path.stem for path in Path("log").glob("*/*.log"))
    assert [name.split("-")[:3] for name in logs] == [[m, "planted.v2", "Mar"] for m in ("BPR", "BPR", "MambaRec")]
    assert sorted(path.name for path in Path("log_tensorboard").iterdir()) == [n.replace(".", "_") for n in logs]


def test_without_a_log_file_the_folders_differ_too(tmp_path, monkeypatch):
    folder = write_planted(tmp_path)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for _ in range(2):
        build(folder, "BPR")
    assert len(list(Path("log_tensorboard").glob("model-Mar-09-2025_12-30-01-*"))) == 2


def test_get_local_time_is_unchanged():
    assert recbole.utils.get_local_time() == "Mar-09-2025_12-30-01"
