"""Jobs in fresh processes, and how many of them fit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_mambarec.experiments.processes import DeviceGate, Event, MemoryGate, Pool
from tests.experiments import jobs
from tests.helpers import posix

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _found_in_processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def collect(pool: Pool, enough=lambda events: False) -> list[Event]:
    """The messages of a pool's jobs until all have ended, or ``enough`` is true of them."""
    events = []
    while pool.running and not enough(events):
        events += pool.events(timeout=1.0)
    return events


@posix
def test_jobs_report_and_end_in_every_way(tmp_path):
    pool = Pool(jobs=4)
    logs = {function: tmp_path / "logs" / f"{function.__name__}.log" for function in (jobs.models, jobs.defect)}
    for function in (jobs.models, jobs.mistake, jobs.defect, jobs.killed):
        pool.start(function.__name__, function, (), logs.get(function, tmp_path / "other.log"))
    assert len(pool.running) == 4
    events = collect(pool)
    by_job = {name: [(kind, value) for job, kind, value in events if job == name] for name, _, _ in events}
    # the models are registered, and Ctrl-C is left to the parent
    assert by_job["models"][0] == ("report", {"ignored": True})
    kind, value = by_job["models"][1]
    assert kind == "done" and "MambaRec" in value
    assert by_job["mistake"] == [("failed", "too bad")]
    assert by_job["defect"] == [("failed", "RuntimeError: ours")]
    assert by_job["killed"][0] == ("report", {"alive": True})
    assert by_job["killed"][1] == ("failed", "its process was killed by SIGKILL (memory may have run out)")
    assert logs[jobs.models].read_text().splitlines()[-2:] == ["to the log", "to the log, too"]
    assert "RuntimeError: ours" in logs[jobs.defect].read_text()
    assert not pool.running and list(pool.events(timeout=0.01)) == []


DRIVER = """
import contextlib, sys
from pathlib import Path
from recbole_mambarec.experiments.processes import Pool
from tests.experiments import jobs

if __name__ == "__main__":
    with contextlib.closing(Pool()) as pool:
        pool.start(0, jobs.sleeper, (sys.argv[1],), Path(sys.argv[1]) / "log")
        while True:
            for event in pool.events(timeout=1.0):
                print(event.value["pid"], flush=True)
"""


@posix
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_no_job_outlives_its_driver(tmp_path, how):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        pid = int(driver.stdout.readline())
        started = time.monotonic()
        while not (tmp_path / str(pid)).is_file():  # it reports before it writes
            assert time.monotonic() < started + 60
            time.sleep(0.05)
        driver.send_signal(signal.Signals[how])
        driver.wait(60)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            if (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] == "Z"
            ):  # ended, and nobody has asked how
                break
            time.sleep(0.1)
        else:
            assert not Path(f"/proc/{pid}").exists()
        seen = (tmp_path / str(pid)).read_text()
        time.sleep(0.3)
        assert (tmp_path / str(pid)).read_text() == seen
    finally:
        driver.kill()


@posix
def test_closing_ends_the_jobs(tmp_path):
    pool = Pool()
    pool.start("a", jobs.sleeper, (str(tmp_path),), tmp_path / "log")
    (event,) = collect(pool, enough=bool)
    pool.close()
    assert not pool.running
    with pytest.raises(ProcessLookupError):
        os.kill(event.value["pid"], 0)


def test_cores_are_divided_unless_the_user_has_set_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert [Pool(jobs)._threads for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Pool(2)._threads is None


def test_a_job_starts_where_the_largest_one_so_far_fits():
    room = 10.0
    gate = MemoryGate(lambda: room)
    assert gate.admits([]) and not gate.admits([0.5])  # what the first one will need is not known yet
    gate.observe(3.0)
    gate.observe(2.0)
    assert gate.admits([3.0]) and gate.admits([3.0, 3.0])
    # 3.3 for the new one and 3 + 3 that two others will still take
    room = 9.4
    assert gate.admits([0.0, 0.0])
    room = 9.2
    assert not gate.admits([0.0, 0.0])
    # alone, it needs no margin
    room = 3.1
    assert gate.admits([]) and not gate.admits([3.0])
    room = 2.9
    assert not gate.admits([])


def test_a_gpu_is_shared_by_the_reports_of_jobs():
    gate = DeviceGate()
    gate.observe("a", {"memory_gib": 1.0})
    assert gate.admits(["a"])  # no GPU, no limit
    gate.observe("a", {"device_gib": 30.0, "device_free_gib": 50.0})
    assert gate.admits(["a"])
    assert not gate.admits(["a", "b"])  # b has not taken its 30 yet
    gate.observe("b", {"device_gib": 25.0, "device_free_gib": 25.0})
    assert not gate.admits(["a", "b"])
    gate.release("a")  # 55 are free now, and b may take 5 more
    assert gate.admits(["b"])
