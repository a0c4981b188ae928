"""A checkpoint restores the configuration, the data, the model and its scores."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import recbole.model.general_recommender
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import EvaluatorType, InputType, ModelType, get_model, get_trainer, init_seed

import recbole_mambarec
from recbole_mambarec import registry
from recbole_mambarec.checkpoint import plain
from recbole_mambarec.compat.checkpoints import TRUST_VARIABLE
from recbole_mambarec.errors import UserError
from recbole_mambarec.restored import config_from_checkpoint, on_this_machine
from recbole_mambarec.testing.planted import QUICK, write_planted
from tests import warm

GENERAL = [name for name in registry.recbole_models() if hasattr(recbole.model.general_recommender, name)]
OTHER_FAMILIES = ["GRU4Rec", "SASRec", "FM", "DeepFM", "CKE", "KGCN"]
# what makes a model small enough for 48 items, or train at all
SETTINGS = {
    "ConvNCF": {"embedding_size": 64, "cnn_channels": [1, 8, 8], "cnn_kernels": [8, 8], "cnn_strides": [8, 8]},
    "NCL": {"num_clusters": 4},
    "RaCT": {"train_stage": "actor_pretrain", "pretrain_epochs": 1, "save_step": 1},
    # with cross-entropy there are no sampled negatives
    **{name: {"train_neg_sample_args": None} for name in ("GRU4Rec", "SASRec")},
}
NEEDS = {"NCL": "faiss"}


def settings(root, model, **overrides):
    given = {"data_path": str(root), "epochs": 1, "state": "ERROR", "strict_keys": False, "checkpoint_dir": "made"}
    return QUICK | given | SETTINGS.get(model, {}) | overrides


def trained(model, dataset, values):
    """The checkpoint of a run of one epoch, and its scores on the test split."""
    config = Config(model, dataset, config_dict=dict(values))
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    trainer.fit(train, valid, verbose=False)
    seed()
    return trainer.saved_model_file, dict(trainer.evaluate(test))


def loaded_scores(file):
    config, model, _, train, _, test = load_data_and_model(str(file))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    seed()
    return dict(trainer.evaluate(test, load_best_model=False))


def seed():
    """Some models draw numbers when they score."""
    init_seed(5, True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("data")).parent


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A dataset with times, ratings and a knowledge graph, as sequential, context and knowledge models need."""
    root = tmp_path_factory.mktemp("families")
    folder = root / "families"
    folder.mkdir()
    draw = random.Random(2)
    lines = [
        f"u{u}\ti{i}\t{draw.randint(1, 5)}\t{t}" for u in range(20) for t, i in enumerate(draw.sample(range(30), 8))
    ]
    text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "\n".join(lines) + "\n"
    (folder / "families.inter").write_text(text, encoding="utf-8")
    facts = "".join(f"e{i}\tr{i % 2}\te{(i * 7) % 40}\n" for i in range(40))
    (folder / "families.kg").write_text(f"head_id:token\trelation_id:token\ttail_id:token\n{facts}", encoding="utf-8")
    links = "".join(f"i{i}\te{i}\n" for i in range(30))
    (folder / "families.link").write_text(f"item_id:token\tentity_id:token\n{links}", encoding="utf-8")
    return root


@pytest.mark.parametrize("model", [*registry.built_in(), *GENERAL])
def test_every_model_comes_back_with_its_scores(planted, model):
    if model in NEEDS:
        pytest.importorskip(NEEDS[model])
    file, expected = trained(model, "planted", settings(planted, model))
    assert expected and loaded_scores(file) == expected


@pytest.mark.parametrize("model", OTHER_FAMILIES)
def test_models_of_other_families_come_back_with_their_scores(families, model):
    columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    if model in ("CKE", "KGCN"):
        columns |= {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    values = settings(families, model, load_col=columns, topk=[5], valid_metric="MRR@5", metrics=["MRR"])
    if model in ("FM", "DeepFM"):
        values |= {"metrics": ["AUC"], "valid_metric": "AUC", "threshold": {"rating": 3}, "load_col": columns}
        values |= {"eval_args": {"mode": "labeled", "split": {"RS": [0.6, 0.2, 0.2]}}}
    file, expected = trained(model, "families", values)
    assert expected and loaded_scores(file) == expected


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("BM3", {"topk": [3, 7], "metrics": ["MRR", "Hit"], "valid_metric": "MRR@7"}),
        ("MambaRec", {"protocol": "recbole"}),
        ("SLMRec", {"protocol": "recbole", "mask_valid_in_test": False, "modalities": ["text"]}),
        ("VBPR", {"eval_args": {"mode": "uni10"}}),
        ("BPR", {"eval_args": {"mode": "pop10"}, "beyond_accuracy": True}),
        ("LightGCN", {"train_neg_sample_args": {"distribution": "popularity"}, "weight_decay": 1e-4}),
        ("FREEDOM", {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}, "repeatable": True}),
        ("BM3", {"user_inter_num_interval": "[0,inf)", "benchmark_filename": ["train", "valid", "test"]}),
    ],
)
def test_unusual_configurations_come_back(planted, model, overrides):
    file, expected = trained(model, "planted", settings(planted, model, **overrides))
    assert loaded_scores(file) == expected


@pytest.mark.parametrize("model", ["SLMRec", "VBPR", "LightGCN"])
def test_the_embedded_dataset(model):
    # a tenth of its users
    values = {"user_inter_num_interval": "[250,inf)", "train_batch_size": 2048}
    file, expected = trained(model, "ml-100k", settings("unused", model, **values))
    assert loaded_scores(file) == expected


def test_final_values_are_those_of_the_run(planted, monkeypatch):
    before = Config(
        "BM3", "planted", config_dict=settings(planted, "BM3", knn_k=3, modalities=["text"], ip="localhost")
    )
    # what a script that loads a checkpoint is called with is not its configuration
    monkeypatch.setattr("sys.argv", ["load.py", "saved/BM3-x.pth", "--knn_k=7", "--epochs=9", "--learning_rate=7"])
    after = config_from_checkpoint(plain(before.final_config_dict))
    kept = dict(before.final_config_dict)
    kept.pop("ip")
    assert after.final_config_dict == kept
    assert after["train_neg_sample_args"]["distribution"] == "none"


def test_the_kinds_of_model_and_metric_are_restored():
    before = Config("MambaRec", "ml-100k", config_dict={"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {
        "mode": "labeled", "split": {"RS": [0.8, 0.1, 0.1]}}, "threshold": {"rating": 4}})  # fmt: skip
    after = config_from_checkpoint(plain(before.final_config_dict))
    assert after.final_config_dict == before.final_config_dict
    assert (after["eval_type"], after["MODEL_TYPE"]) == (EvaluatorType.VALUE, ModelType.GENERAL)
    assert after["MODEL_INPUT_TYPE"] is InputType.PAIRWISE


def test_a_checkpoint_of_an_earlier_version_gets_the_defaults_of_new_keys(planted):
    values = plain(Config("BM3", "planted", config_dict=settings(planted, "BM3", reg_weight=0.3)).final_config_dict)
    del values["cache_dir"], values["feature_memory"]
    values["a_key_that_came_and_went"] = 1
    after = config_from_checkpoint(values)
    assert (after["feature_memory"], after["reg_weight"]) == (512, 0.3)


def test_a_dataset_that_has_moved(planted):
    values = plain(Config("BM3", "planted", config_dict=settings(planted, "BM3")).final_config_dict)
    with pytest.raises(UserError, match="dataset 'planted' not found"):
        config_from_checkpoint(values | {"data_path": "elsewhere/planted"})


def test_a_run_of_several_processes_is_loaded_by_one(planted):
    config = Config("BPR", "planted", config_dict=settings(planted, "BPR"))
    config.final_config_dict.update(single_spec=False, local_rank=1, world_size=2, device=torch.device("cuda", 1))
    here = on_this_machine(config)
    assert here["single_spec"] and here["local_rank"] == 0
    assert here["device"] == torch.device("cuda" if torch.cuda.is_available() else "cpu")


LOAD = """
import json, sys
files, sys.argv = sys.argv[1:], ["load.py", "--epochs=3", "--data_path=nowhere"]
import recbole_mambarec
from tests.test_restored import loaded_scores
print(json.dumps([loaded_scores(file) for file in files]))
"""


def test_another_process_loads_them(planted):
    """RecBole's own checkpoints run code when they are read and must be trusted; those of this package need not."""
    # RecBole's first: its configuration is unpickled, so that no other one has been made in the process by then
    made = [trained(model, "planted", settings(planted, model)) for model in ("LightGCN", "BM3")]
    root = Path(recbole_mambarec.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", TRUST_VARIABLE: "1"}
    done = warm.python("-c", LOAD, *(file for file, _ in made), env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [{name: float(value) for name, value in scores.items()} for _, scores in made]
    assert all(np.isfinite(list(scores.values())).all() for scores in found)
    environment.pop(TRUST_VARIABLE)
    done = warm.python("-c", LOAD, made[1][0], env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == found[1:]
