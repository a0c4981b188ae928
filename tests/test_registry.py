"""RecBole's own functions find the models of this package."""

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from recbole.data.dataset import Dataset
from recbole.quick_start import load_data_and_model, objective_function, run_recbole
from recbole.trainer import HyperTuning
from recbole.utils import ModelType, get_model, get_trainer

from recbole_mambarec import registry
from recbole_mambarec.data.dataset import MultimodalDataset
from recbole_mambarec.models.mambarec import MambaRec
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec.trainer import MultimodalTrainer
from tests import warm

ROOT = Path(__file__).resolve().parents[1]


def test_all_look_ups_return_the_same_class():
    assert get_model("MambaRec") is MambaRec
    assert get_trainer(ModelType.GENERAL, "MambaRec") is MultimodalTrainer
    from recbole.model.general_recommender.mambarec import MambaRec as through_recbole

    assert through_recbole is MambaRec
    assert pickle.loads(pickle.dumps(MambaRec)) is MambaRec
    assert MambaRec.__module__ == "recbole_mambarec.models.mambarec"


def test_recboles_models_are_found_as_before():
    assert get_model("BPR").__module__ == "recbole.model.general_recommender.bpr"
    assert get_trainer(ModelType.GENERAL, "BPR").__name__ == "Trainer"
    with pytest.raises(ImportError):
        __import__("recbole.model.general_recommender.nothing")


@pytest.mark.parametrize("name", ["MambaRec", "MAMBAREC", "LightGCN", "lightgcn"])
def test_a_taken_name_is_refused(name):
    with pytest.raises(ValueError, match="is taken"):
        registry.register(name, registry.Entry("somewhere:Else"))


def test_registering_twice_changes_nothing():
    before = list(sys.meta_path)
    registry.install()
    assert sys.meta_path == before and registry.names().count("MambaRec") == 1


def test_every_entry_can_be_imported():
    for name in registry.names():
        model = get_model(name)
        assert model.__name__ == name and issubclass(get_trainer(model.type, name), MultimodalTrainer)


def settings(tmp_path, **overrides):
    write_planted(tmp_path)
    return QUICK | {"data_path": str(tmp_path), "epochs": 2} | overrides


def test_run_recbole_and_load_data_and_model(tmp_path):
    result = run_recbole(model="MambaRec", dataset="planted", config_dict=settings(tmp_path))
    assert set(result["test_result"]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}
    (file,) = Path("saved").glob("MambaRec-*.pth")
    config, model, dataset, _, _, test = load_data_and_model(str(file))
    assert isinstance(model, MambaRec) and isinstance(dataset, MultimodalDataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert dict(trainer.evaluate(test, load_best_model=False)) == dict(result["test_result"])


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_built_in_models_run_on_a_prepared_dataset(tmp_path, model):
    result = run_recbole(model=model, dataset="planted", config_dict=settings(tmp_path, epochs=10))
    assert result["test_result"]["recall@20"] > 0.5
    (file,) = Path("saved").glob(f"{model}-*.pth")
    _, _, dataset, *_ = load_data_and_model(str(file))
    assert type(dataset) is Dataset


def test_hyper_tuning(tmp_path):
    pytest.importorskip("hyperopt")
    file = tmp_path / "fixed.yaml"
    lines = settings(tmp_path, epochs=1) | {"model": "MambaRec", "dataset": "planted"}
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    tuning = HyperTuning(
        objective_function,
        params_dict={"choice": {"mmd_weight": [0.1, 0.2]}},
        fixed_config_file_list=[str(file)],
        algo="exhaustive",
    )
    tuning.run()
    assert len(tuning.params2result) == 2 and tuning.best_params["mmd_weight"] in (0.1, 0.2)


SPAWN = """
import sys
from recbole_mambarec import compat
from recbole.quick_start import run

if __name__ == "__main__":
    values = {settings!r}
    result = run(model="MambaRec", dataset="planted", config_dict=values, nproc=2, port="{port}")
    print("RECALL", result["test_result"]["recall@20"])
"""


def test_spawned_children_know_the_models(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN.format(settings=settings(tmp_path, epochs=6), port=port))
    done = warm.python(str(script), env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RECALL")]
    assert float(line.split()[1]) > 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_equals_one_on_the_cpu(tmp_path):
    on_cpu = run_recbole("MambaRec", "planted", config_dict=settings(tmp_path, gpu_id=""))
    on_gpu = run_recbole("MambaRec", "planted", config_dict=settings(tmp_path, gpu_id="0"))
    assert on_gpu["test_result"] == pytest.approx(on_cpu["test_result"], abs=0.05)
