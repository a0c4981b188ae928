"""The memory that a run will need, compared with the free memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from recbole.utils import get_model

from benchmarks.memory import estimated
from benchmarks.synthetic import write_dataset
from recbole_mambarec import memory, registry
from recbole_mambarec.cli import run_recbole
from recbole_mambarec.errors import UserError
from recbole_mambarec.memory import StepMemory, available, check, need
from recbole_mambarec.testing.data import InMemoryDataset, model_config, random_dataset
from recbole_mambarec.testing.planted import write_planted

GIB = 2**30


def wanted(use=None, on_disk=True, **overrides):
    dataset = random_dataset(n_users=300, n_items=200, dims={"image": 50, "text": 30}, on_disk=on_disk)
    return need(use or StepMemory(), model_config("MambaRec", **overrides), dataset.training_data())


def wide_data(n_users, n_items, n_pairs, dims=None):
    """As many interactions as wanted, and features on disk."""
    rng = np.random.default_rng(0)
    features = {m: np.zeros((n_items, d), dtype=np.float32) + 1 for m, d in (dims or {"image": 32, "text": 16}).items()}
    users, items = rng.integers(0, n_users, n_pairs), rng.integers(0, n_items, n_pairs)
    return InMemoryDataset(users, items, n_users, n_items, features, on_disk=True).training_data()


def test_the_terms():
    use = StepMemory(users=(1, 2), items=(3, 4), edges=(5, 6), batch=(7, 8), tables=9, picked=(1, 2))
    table, d = 200 * 80 * 4, 10
    found = wanted(use, freeze_features=False, embedding_size=d, train_batch_size=16, eval_batch_size=1000)
    assert found.features == 9 * table
    rows = (1 + 2 * 2) * 300 + (3 + 2 * 4) * 200 + (5 + 2 * 6) * 1200 + (7 + 2 * 8) * 16
    assert found.step == (rows * d + 2 * 16 * 80) * 4
    # final embeddings twice; five users at a time, and the block before them
    assert found.evaluation == (2 * 500 * d + 3 * 5 * 200) * 4
    changing = (1 + memory._OVERHEAD) * (found.step + found.evaluation)
    assert found.total == pytest.approx(memory._LIBRARIES + found.features + found.graphs + changing, rel=1e-6)
    assert wanted(use, freeze_features=True).features == 0
    assert wanted(use, freeze_features=True, on_disk=False).features == table
    assert wanted(use, freeze_features=True, enable_amp=True).features == table / 2


def test_a_batch_is_no_larger_than_the_data():
    use = StepMemory(users=(0, 0), items=(0, 0), batch=(1, 0))

    def step(**overrides):
        return wanted(use, embedding_size=8, **overrides).step / (8 * 4)

    assert step(train_batch_size=1000) == 1000
    assert step(train_batch_size=10**9) == 1200
    # each interaction stands there with each of its negatives
    several = {"distribution": "uniform", "sample_num": 4}
    assert step(train_batch_size=10**9, train_neg_sample_args=several) == 4 * 1200
    assert step(train_batch_size=1000, train_neg_sample_args=several) == 1000
    none = {"distribution": "none", "sample_num": "none"}
    assert step(train_batch_size=10**9, train_neg_sample_args=none) == 1200


def test_blocks_of_the_evaluation():
    def scores(**overrides):
        return wanted(embedding_size=8, **overrides).evaluation / 4 - 2 * 500 * 8

    # one block of all users; at least one user, and several blocks
    assert scores(eval_batch_size=10**12) == 2 * 300 * 200
    assert scores(eval_batch_size=1) == 3 * 200
    assert scores(eval_batch_size=8000) == 3 * 40 * 200
    # 50 users with 100 candidates each, in rows of all items
    sampled = {"distribution": "uniform", "sample_num": 99}
    assert scores(eval_batch_size=5000, test_neg_sample_args=sampled) == 3 * 50 * 200 + 3 * 8 * 50 * 100


def test_a_batch_of_65536_on_a_small_dataset_is_accepted(monkeypatch):
    """The size of MovieLens 100K, where the process of such a run takes 1 GiB."""
    monkeypatch.setattr(memory, "available", lambda device: (4 * GIB, "free memory of the machine"))
    data = wide_data(943, 1682, 80_000, {"text": 384, "genre": 19})
    for name in registry.built_in():
        # MMSSL's discriminator sees rows of the batch that are as wide as the catalogue
        config = model_config(name, train_batch_size=16384 if name == "MMSSL" else 65536)
        check(name, get_model(name).memory_of(config, data), config, data)


def test_a_batch_that_is_too_large_is_refused_with_one_that_fits(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: (4 * GIB, "free memory of the machine"))
    data = wide_data(20_000, 10_000, 1_000_000)
    config = model_config("MambaRec", train_batch_size=1_000_000)
    use = get_model("MambaRec").memory_of(config, data)
    with pytest.raises(UserError) as caught:
        check("MambaRec", use, config, data)
    sentence = str(caught.value)
    assert "\n" not in sentence and "evaluation" in sentence and "feature" not in sentence.split("): ")[1]
    size = int(re.search(r"train_batch_size=(\d+)", sentence)[1])
    assert 50_000 < size < 500_000
    check("MambaRec", use, model_config("MambaRec", train_batch_size=size), data)


def test_a_closed_form_that_is_too_large_is_refused_with_the_sparse_solver(monkeypatch):
    """Not with another width of embeddings, of which there are none."""
    monkeypatch.setattr(memory, "available", lambda device: (4 * GIB, "free memory of the machine"))
    dataset = random_dataset(n_users=300, n_items=16_000, dims={"text": 4})
    with pytest.raises(UserError, match="but 4 GiB are available") as caught:
        get_model("MultiEASE")(model_config("MultiEASE"), dataset)
    assert "use solver=sparse" in str(caught.value) and "embedding_size" not in str(caught.value)


def advice(monkeypatch, free, use=None, data=None, **overrides):
    monkeypatch.setattr(memory, "available", lambda device: (free, "free memory of the machine"))
    config = model_config("MambaRec", **overrides)
    with pytest.raises(UserError) as caught:
        check("MambaRec", use or StepMemory(), config, data or wide_data(3000, 2000, 10_000))
    return str(caught.value).split("): ", 1)[1].removesuffix("; memory_limit=0 tries it anyway")


def test_advice_names_sufficient_settings(monkeypatch):
    few = StepMemory(users=(1, 0), items=(1, 0), batch=(1, 0))
    large = wide_data(3000, 2000, 10_000, {"image": 60_000})
    assert advice(monkeypatch, GIB, few, large, freeze_features=False) == "use freeze_features=True"
    blocks = {"freeze_features": True, "eval_batch_size": 10**9}
    assert advice(monkeypatch, GIB, few, wide_data(90_000, 10_000, 200_000), **blocks) == "use eval_batch_size=31250000"
    # users, of whom there are as many with every batch
    assert advice(monkeypatch, GIB, StepMemory(users=(1400, 0)), embedding_size=64) == "use embedding_size=32"


def test_advice_without_a_sufficient_setting(monkeypatch):
    settings = {"freeze_features": False, "eval_batch_size": 1000}
    found = advice(monkeypatch, memory._LIBRARIES, data=wide_data(3000, 2000, 10_000, {"image": 2000}), **settings)
    assert found.startswith("no single setting is enough; a combination may be: freeze_features=True, ")
    assert "embedding_size" in found and "eval_batch_size" not in found
    assert advice(monkeypatch, 1, freeze_features=True, data=wide_data(30, 20, 60)) == "use a machine with more memory"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="only Linux counts a peak anew")
def test_a_process_stays_near_the_estimate(tmp_path):
    """A batch that is larger than the data."""
    widths = {"image": 2048, "text": 64}
    write_dataset(tmp_path / "small", (1200, 1000, 12_000), widths, dtype="float16")
    code = f"""if True:
        import json, pathlib, recbole_mambarec, recbole.quick_start
        from benchmarks.memory import Cell, run_cell
        print(json.dumps(run_cell(pathlib.Path({str(tmp_path)!r}), Cell("VBPR", "small", "frozen", 65_536))))
    """
    command, here = [sys.executable, "-c", code], Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["data"]["pairs"] < 65_536
    assert 0.85 < estimated(measured) / measured["growth"] < 1.5


def test_the_limit_is_a_key(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: (1, "free memory of the machine"))
    data = random_dataset().training_data()
    check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=2), data)
    check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=0), data)
    with pytest.raises(UserError, match=r"\(memory_limit\)"):
        check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=0.05), data)
    for wrong in (-1, "much", True):
        with pytest.raises(UserError, match="memory_limit must be a number of GiB"):
            check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=wrong), data)


def test_a_system_without_memory_figures_is_accepted(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: (None, "unknown"))
    large = StepMemory(users=(1e9, 0))
    check("MambaRec", large, model_config("MambaRec"), random_dataset().training_data())


def test_the_command_line_stops_before_anything_is_trained(tmp_path, monkeypatch):
    folder = write_planted(tmp_path)
    arguments = ["--dataset=planted", f"--data_path={folder.parent}", "--memory_limit=0.001", "--show_progress=False"]
    # RecBole reads the command line itself
    monkeypatch.setattr("sys.argv", ["run_recbole.py", *arguments])
    with pytest.raises(UserError, match="MambaRec on 60 users and 48 items will need about"):
        run_recbole(arguments)
    assert not list(Path("saved").glob("*"))


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="only Linux tells")
def test_memory_of_this_machine():
    free, where = available(torch.device("cpu"))
    assert 2**20 < free < 2**50 and where in ("free memory of the machine", "limit of the control group")


def control_group(root: Path, own: str, files: dict[str, str]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "own").write_text(own)
    return memory._control_groups(root, root / "own")


def test_limits_of_control_groups_of_the_second_version(tmp_path):
    files = {
        "job/memory.max": f"{4 * GIB}\n",
        "job/memory.current": f"{3 * GIB}\n",
        "job/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        "job/step/memory.max": "max\n",
        "job/step/memory.current": "5\n",
    }
    assert control_group(tmp_path, "0::/job/step\n", files) == [2 * GIB]


def test_limits_of_control_groups_of_the_first_version(tmp_path):
    files = {
        "memory/memory.limit_in_bytes": f"{8 * GIB}",
        "memory/memory.usage_in_bytes": f"{GIB}",
        "memory/host/job/memory.limit_in_bytes": "9223372036854771712",
        "memory/host/job/memory.usage_in_bytes": "7",
    }
    own = "5:devices:/\n4:memory:/host/job\n0::/\n"
    assert control_group(tmp_path, own, files) == [7 * GIB]
    # inside a container the path is that of the host
    assert control_group(tmp_path, "4:cpu,memory:/elsewhere/x\n", files) == [7 * GIB]


def test_no_control_group(tmp_path):
    assert memory._control_groups(tmp_path, tmp_path / "missing") == []


def test_memory_of_processes():
    before = memory.peak_gib()
    ballast = np.ones(1 << 26, dtype=np.int8)  # 64 MiB, touched
    assert memory.held_gib(os.getpid()) > len(ballast) / GIB
    assert memory.peak_gib() >= max(before, memory.held_gib(os.getpid()) * 0.9)
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert memory.held_gib(done.pid) == 0


def test_memory_of_the_machine(monkeypatch):
    assert memory.total_gib() == psutil.virtual_memory().total / GIB
    assert 0 < memory.free_gib() < memory.total_gib()
    monkeypatch.setattr(memory, "available", lambda device: (None, "unknown"))
    assert memory.free_gib() == float("inf")
