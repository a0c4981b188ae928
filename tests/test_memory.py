"""What a run will need against what there is."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from recbole_mambarec import memory
from recbole_mambarec.cli import run_recbole
from recbole_mambarec.errors import UserError
from recbole_mambarec.memory import StepMemory, available, check, need
from tests.helpers import model_config, random_dataset
from tests.planted import write_planted

GIB = 2**30


def wanted(use=None, on_disk=True, **overrides):
    dataset = random_dataset(n_users=300, n_items=200, dims={"image": 50, "text": 30}, on_disk=on_disk)
    return need(use or StepMemory(), model_config("MambaRec", **overrides), dataset.training_data())


def test_the_terms():
    use = StepMemory(users=(1, 2), items=(3, 4), edges=(5, 6), tables=7)
    table, d = 200 * 80 * 4, 10
    found = wanted(use, freeze_features=False, embedding_size=d, train_batch_size=16, eval_batch_size=1000)
    assert found.features == 7 * table
    rows = (1 + 2 * 2) * 300 + (3 + 2 * 4) * 200 + (5 + 2 * 6) * 1200
    assert found.step == rows * d * 4 + 8 * 16 * 16 * 4
    assert found.evaluation == 3 * 1000 * 4
    assert found.total == pytest.approx(150 * 2**20 + 1.1 * (found.features + found.graphs + found.step), rel=1e-6)
    assert wanted(use, freeze_features=True).features == 0
    assert wanted(use, freeze_features=True, on_disk=False).features == table
    assert wanted(use, freeze_features=True, enable_amp=True).features == table / 2


def test_a_run_that_cannot_fit_is_one_sentence_with_the_options(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: (2 * GIB, "free memory of the machine"))
    data = random_dataset().training_data()
    check("MambaRec", StepMemory(), model_config("MambaRec"), data)
    large = StepMemory(users=(1e7, 0))
    with pytest.raises(UserError) as caught:
        check("MambaRec", large, model_config("MambaRec"), data)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in ("MambaRec on 30 users and 20 items", "but 2 GiB are there (free memory", "freeze_features=True"):
        assert part in sentence
    with pytest.raises(UserError) as caught:
        check("MambaRec", StepMemory(), model_config("MambaRec", freeze_features=True, eval_batch_size=GIB), data)
    assert "freeze" not in str(caught.value) and "a smaller eval_batch_size" in str(caught.value)


def test_the_limit_is_a_key(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: (1, "free memory of the machine"))
    data = random_dataset().training_data()
    check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=2), data)
    check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=0), data)
    with pytest.raises(UserError, match=r"\(memory_limit\)"):
        check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=0.1), data)
    for wrong in (-1, "much", True):
        with pytest.raises(UserError, match="memory_limit must be a number of GiB"):
            check("MambaRec", StepMemory(), model_config("MambaRec", memory_limit=wrong), data)


def test_a_system_that_does_not_tell_is_not_asked_twice(monkeypatch):
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
def test_this_machine_tells():
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
