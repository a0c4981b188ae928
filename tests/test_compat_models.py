"""RecBole's own models, from data to a tested checkpoint, with the installed libraries."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model, objective_function, run_recbole
from recbole.trainer import HyperTuning

from recbole_mambarec.compat.checkpoints import load_checkpoint
from recbole_mambarec.errors import UserError
from tests import warm

# the 361 users with 100 ratings or more; a random list of 10 of the 1,600 items has a recall of 0.006
SETTINGS = {
    "user_inter_num_interval": "[100,inf)",
    "epochs": 2,
    "learning_rate": 0.01,
    "train_batch_size": 2048,
    "eval_batch_size": 200_000,
    "metrics": ["Recall"],
    "topk": [10],
    "valid_metric": "Recall@10",
    "show_progress": False,
    "state": "ERROR",
}
BETTER_THAN_RANDOM = 0.04


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("BPR", {}),
        ("LightGCN", {}),
        ("NGCF", {"epochs": 1}),
        ("NeuMF", {"epochs": 1, "train_batch_size": 8192}),
        ("ItemKNN", {}),
        ("EASE", {}),
        ("MultiVAE", {"train_batch_size": 64}),
    ],
)
def test_model_is_trained_saved_loaded_and_good(model, settings):
    result = run_recbole(model=model, dataset="ml-100k", config_dict={**SETTINGS, **settings})
    assert result["best_valid_score"] > BETTER_THAN_RANDOM
    assert result["test_result"]["recall@10"] > BETTER_THAN_RANDOM
    [checkpoint] = Path("saved").glob(f"{model}-*.pth")
    _, again, *_ = load_data_and_model(str(checkpoint))
    state = load_checkpoint(checkpoint)["state_dict"]
    for name, values in again.state_dict().items():
        assert torch.equal(values, state[name]), name


def test_checkpoint_of_another_process_is_refused():
    config = Config(model="BPR", dataset="ml-100k", config_dict=dict(SETTINGS))
    torch.save({"config": config}, "other.pth")
    with pytest.raises(UserError, match=r"other\.pth .* run code"):
        load_data_and_model("other.pth")


def test_hyper_tuning_of_a_model():
    pytest.importorskip("hyperopt")
    settings = {**SETTINGS, "model": "BPR", "dataset": "ml-100k", "epochs": 1}
    Path("settings.yaml").write_text(json.dumps(settings), encoding="utf-8")
    tuning = HyperTuning(
        objective_function,
        params_dict={"choice": {"learning_rate": [1e-6, 0.02]}},
        fixed_config_file_list=["settings.yaml"],
    )
    tuning.run()
    assert len(tuning.params_list) == 2
    assert tuning.best_params == {"learning_rate": 0.02}


SCRIPT = """
import os
import sys

import recbole.trainer.trainer

# as if the processes reached this in different seconds
recbole.trainer.trainer.get_local_time = lambda: str(os.getpid())

if __name__ == "__main__":
    import json

    import recbole_mambarec
    from recbole.quick_start import run

    port, settings = sys.argv[1:]
    sys.argv = sys.argv[:1]
    result = run(model="BPR", dataset="ml-100k", nproc=2, port=port, config_dict=json.loads(settings))
    print(json.dumps(dict(result["test_result"])))
"""


def test_two_processes_on_the_cpu():
    Path("script.py").write_text(SCRIPT, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(warm.ROOT), "OMP_NUM_THREADS": "1"}
    done = warm.python("script.py", str(port), json.dumps({**SETTINGS, "gpu_id": ""}), env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["recall@10"] > BETTER_THAN_RANDOM
    assert len(list(Path("saved").glob("*.pth"))) == 1
