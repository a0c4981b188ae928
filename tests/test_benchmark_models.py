"""The benchmark of all models, on data so small that only its form can be tested."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from recbole.utils import ModelType, get_model

from benchmarks.models import COLUMNS, RECBOLE_MODELS, defaults, main, measure
from benchmarks.need import Need, Speeds
from benchmarks.step import Sizes
from recbole_mambarec import registry
from recbole_mambarec.data.graphs.sparse import Csr
from recbole_mambarec.errors import UserError
from tests import warm

ROOT = Path(__file__).resolve().parents[1]
TINY = {"users": 40, "items": 30, "pairs": 200, "batch": 16}


def run(*arguments: str) -> subprocess.CompletedProcess:
    return warm.python("-m", "benchmarks.models", *arguments, cwd=ROOT)


@pytest.mark.parametrize("name", [*RECBOLE_MODELS, *registry.built_in()])
def test_every_model_can_be_measured(name, monkeypatch):
    monkeypatch.setattr("benchmarks.models.measure_speeds", lambda: Speeds(8e10, 2e10))
    sizes = Sizes(**TINY, widths={"image": 16, "text": 8})
    values = measure(
        name,
        sizes,
        steps=1,
        threads=torch.get_num_threads(),
        settings={"embedding_size": 8, "knn_k": 4, "hidden_dim": 8},
    )
    assert set(values) == set(COLUMNS)
    assert values["peak_gib"] > 0.05 and values["evaluation_cpu_s"] >= 0
    if get_model(name).type is not ModelType.TRADITIONAL:
        assert values["step_cpu_s"] > 0 and values["ratio"] > 0 and values["parameters"] > 0


def test_defaults_are_those_of_the_model():
    assert defaults("LightGCN") == {"embedding_size": 64, "n_layers": 2, "reg_weight": 1e-5}
    assert defaults("CRANE")["rca_layers"] == 2


def test_what_arithmetic_needs_is_its_operations_or_its_passes_over_the_memory():
    a, b = torch.randn(100, 50), torch.randn(50, 80)
    rows = torch.tensor([3, 1, 1])
    graph = Csr(torch.tensor([0, 1, 3]), torch.tensor([4, 0, 2]), torch.ones(3), (2, 50))
    pairs = graph.tensor().to_dense().to_sparse_coo()
    with Need() as need:
        product = a @ b
        torch.cat([a, a]).mul_(2.0)
        b.index_select(0, rows)
        graph.times(b)
        product.t().contiguous()
        pairs @ b
    assert [(name, flops) for name, flops, _ in need.work[:2]] == [("mm", 2 * 100 * 50 * 80), ("mul_", 0)]
    traffic = [numbers for _, _, numbers in need.work]
    assert traffic[1:3] == [4 * 2 * 2 * a.numel(), 4 * 2 * 3 * 80]
    # a row of b for each entry, indices of 8 bytes, and the result
    assert traffic[3] == 4 * 3 * 80 + 8 * 3 + 4 * 2 * 80
    assert need.work[-1] == ("mm", 0, 3 * (4 * 80 + 4 + 16) + 4 * 2 * 80)
    # as fast as it gets, the product has to read and write; infinitely fast memory leaves its operations
    assert need.seconds(Speeds(1e30, 1.0)) == (traffic[0], sum(traffic[1:]))
    assert need.seconds(Speeds(1.0, 1e30)) == (2 * 100 * 50 * 80, pytest.approx(0.0, abs=1e-20))


def test_one_command_prints_a_table_and_a_json_line_says_what_failed_and_continues_its_log(tmp_path, monkeypatch):
    sizes = [f"{key}={value}" for key, value in TINY.items()]
    files = ["--log", str(tmp_path / "log.jsonl"), "--page", str(tmp_path / "page.md")]
    shape = ["--sizes", *sizes, "--widths", "text=8", "--steps", "1", "--threads", "1", *files]
    done = run("BPR", "CRANE", *shape, "--settings", "rca_residual=unheard-of", "embedding_size=8")
    header, _, bpr, crane, record = done.stdout.strip().splitlines()
    assert header.startswith("| model | CPU s / step") and bpr.startswith("| BPR | 0.")
    assert crane.startswith("| CRANE |") and "rca_residual 'unheard-of' is unknown" in crane
    assert done.returncode == 1
    record = json.loads(record)
    assert record["sizes"] == TINY | {"widths": {"text": 8}}
    assert set(record["models"]["BPR"]) == set(COLUMNS) and set(record["models"]["CRANE"]) == {"error"}
    assert bpr in (tmp_path / "page.md").read_text()
    # a model that failed is measured again, the other one is not
    measured = []
    arguments = ["BPR", "CRANE", *shape, "--settings", "rca_residual=unheard-of", "embedding_size=8"]
    monkeypatch.setattr("sys.argv", ["benchmarks.models", *arguments])
    monkeypatch.setattr("benchmarks.models.in_child", lambda name, task: measured.append(name) or {"error": "again"})
    assert main() == 1 and measured == ["CRANE"]
    page = (tmp_path / "page.md").read_text()
    assert bpr in page and "| CRANE | again |" in page


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
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        patch.setattr("sys.argv", ["benchmarks.models", *arguments])
        main()
