"""The benchmark of all models, on data so small that only its form can be tested."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.models import COLUMNS, RECBOLE_MODELS, defaults, measure
from benchmarks.step import Sizes
from recbole_mambarec import registry
from tests import warm

ROOT = Path(__file__).resolve().parents[1]
TINY = {"users": 40, "items": 30, "pairs": 200, "batch": 16}


def run(*arguments: str) -> subprocess.CompletedProcess:
    return warm.python("-m", "benchmarks.models", *arguments, cwd=ROOT)


@pytest.mark.parametrize("name", [*RECBOLE_MODELS, *registry.built_in()])
def test_every_model_can_be_measured(name):
    sizes = Sizes(**TINY, widths={"image": 16, "text": 8})
    values = measure(
        name,
        sizes,
        steps=1,
        threads=torch.get_num_threads(),
        settings={"embedding_size": 8, "knn_k": 4, "hidden_dim": 8},
    )
    assert set(values) == set(COLUMNS)
    assert values["step_s"] > 0 and values["peak_gib"] > 0.05 and values["parameters"] > 0


def test_defaults_are_those_of_the_model():
    assert defaults("LightGCN") == {"embedding_size": 64, "n_layers": 2, "reg_weight": 1e-5}
    assert defaults("CRANE")["rca_layers"] == 2


def test_one_command_prints_a_table_and_a_json_line_and_says_what_failed():
    sizes = [f"{key}={value}" for key, value in TINY.items()]
    shape = ["--sizes", *sizes, "--widths", "text=8", "--steps", "1", "--threads", "1"]
    done = run("BPR", "CRANE", *shape, "--settings", "rca_residual=unheard-of", "embedding_size=8")
    header, _, bpr, crane, record = done.stdout.strip().splitlines()
    assert header.startswith("| model | s / step") and bpr.startswith("| BPR | 0.")
    assert crane.startswith("| CRANE |") and "rca_residual 'unheard-of' is unknown" in crane
    assert done.returncode == 1
    record = json.loads(record)
    assert record["sizes"] == TINY | {"widths": {"text": 8}}
    assert set(record["models"]["BPR"]) == set(COLUMNS) and set(record["models"]["CRANE"]) == {"error"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["Mamba"], "there is no model 'Mamba' to measure: choose among BPR, LightGCN, MambaRec"),
        (["BPR", "--sizes", "users"], "'users' is not understood: write key=value"),
        (["BPR", "--sizes", "people=3"], "--sizes people is unknown: give users, items, pairs, batch"),
        (["BPR", "--widths", "image=0"], "--widths image=0 is not understood: give whole numbers from 1"),
        (["BPR", "--steps", "0"], "steps=0 is not understood"),
        (["BPR", "--settings", "rca_layers=1"], "--settings rca_layers is a key of none of the models BPR"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(arguments, sentence):
    from benchmarks.models import main
    from recbole_mambarec.errors import UserError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        patch.setattr("sys.argv", ["benchmarks.models", *arguments])
        main()
