"""Memory of processes and what is left."""

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from recbole_mambarec import memory


def test_peak_and_present_memory_of_a_process():
    before = memory.peak_gib()
    ballast = np.ones(1 << 26, dtype=np.int8)  # 64 MiB, touched
    assert memory.held_gib(os.getpid()) > len(ballast) / 2**30
    assert memory.peak_gib() >= max(before, memory.held_gib(os.getpid()) * 0.9)


def test_a_process_that_has_ended_holds_nothing():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert memory.held_gib(done.pid) == 0


def test_what_is_left_without_limits(tmp_path):
    machine = psutil.virtual_memory()
    assert memory.total_gib(tmp_path) == machine.total / 2**30
    assert 0 < memory.available_gib(tmp_path) < memory.total_gib(tmp_path)


@pytest.mark.parametrize("generation", [1, 2])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, generation):
    files = {
        1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("", "memory.max", "memory.current", "inactive_file"),
    }[generation]
    base = tmp_path / "groups" / files[0]
    own = base / "jobs" / "this"
    own.mkdir(parents=True)
    lines = {1: "4:memory:/jobs/this\n1:cpu:/other\n", 2: "0::/jobs/this\n"}[generation]
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(lines)
    monkeypatch.setattr(memory, "_OWN_GROUPS", cgroup)
    mib = 1 << 20
    # the parent's limit is the one that counts; the own group has none
    (own / files[1]).write_text("max\n" if generation == 2 else f"{(1 << 63) - 4096}\n")
    (base / "jobs" / files[1]).write_text(f"{64 * mib}\n")
    (base / "jobs" / files[2]).write_text(f"{50 * mib}\n")
    (base / "jobs" / "memory.stat").write_text(f"anon 1\n{files[3]} {10 * mib}\n")
    assert memory.total_gib(tmp_path / "groups") == 64 * mib / 2**30
    assert memory.available_gib(tmp_path / "groups") == 24 * mib / 2**30
