"""Searches on a ray cluster of two nodes, both on this machine: each has its own processes and its own object store."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import hyper, on_ray, plan, processes, store
from recbole_mambarec.experiments.hyper import tune
from recbole_mambarec.experiments.on_ray import RaySettings
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.search import Search
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.experiments.trial import trial
from recbole_mambarec.experiments.tuning import Tuning
from recbole_mambarec.testing.planted import QUICK, write_planted
from tests import warm
from tests.helpers import posix

pytest.importorskip("hyperopt")
ray = pytest.importorskip("ray", reason="needs the extra [ray]", exc_type=ImportError)
pytest.importorskip("ray.tune", reason="needs the extra [ray]", exc_type=ImportError)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _processes(monkeypatch):
    """What is trained or tested outside the cluster."""
    monkeypatch.setattr(processes, "_CONTEXT", warm.server())


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster whose processes find this checkout."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made.address
    made.shutdown()
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before


def searched(tmp_path, space: str, **overrides) -> dict:
    """Arguments of :func:`tune` for a small search."""
    write_planted(tmp_path, users_per_group=6, items_per_group=24)
    (tmp_path / "mine.hyper").write_text(space)
    values = QUICK | {"data_path": str(tmp_path), "epochs": 4, "embedding_size": 4} | overrides
    return {"overrides": values, "params_file": tmp_path / "mine.hyper", "progress": False}


def refused(tmp_path, sentence: str, settings: RaySettings | None = None) -> None:
    """A search ends with a sentence and without a record."""
    with pytest.raises(UserError, match=sentence):
        tune("MambaRec", "planted", **searched(tmp_path, "n_mm_layers choice [0]\n"), on_ray=settings or RaySettings())
    assert not list(Path("tuning").glob("*/trials.jsonl"))


def test_a_search_on_two_nodes_equals_that_on_one_machine(cluster, tmp_path):
    """Also where the tuned key changes the data, which are then read anew."""
    arguments = searched(tmp_path, "modalities choice [['image'], ['text']]\n")
    record, tuning = tune("MambaRec", "planted", **arguments, on_ray=RaySettings(cluster, grace=0))
    assert set(record.test) == {"train", "train+valid"} and tuning.best.score == record.score
    trials = store.read(tuning.search.trials_file)
    assert all(t.status == "finished" and t.memory_gib > 0.1 and len(t.curve) == 4 for t in trials)
    assert not (tuning.search.folder / "ray").exists() and not (tuning.search.folder / "running").exists()
    here, _ = tune("MambaRec", "planted", **arguments, root="here")
    scores = {
        name: {t.label: t.valid for t in store.read(file)}
        for name, file in (("ray", tuning.search.trials_file), ("here", next(Path("here").glob("*/trials.jsonl"))))
    }
    assert len(scores["ray"]) == 2 and scores["ray"] == scores["here"] and here.test == record.test
    assert sorted(t.config["modalities"] for t in trials) == [["image"], ["text"]]
    assert trials[0].curve[0]["loss"] != trials[1].curve[0]["loss"]


def test_bad_trials_are_stopped_early_also_after_a_restart_of_the_driver(cluster, tmp_path, capsys):
    settings = RaySettings(cluster, grace=2, halving=2)
    arguments = searched(tmp_path, "n_mm_layers choice [1]\nweight_decay choice [0.0, 1000.0]\n", epochs=8)
    _, tuning = tune("MambaRec", "planted", **arguments, jobs=1, on_ray=settings)
    good, bad = tuning.records
    assert not good.stopped and good.epochs == 8
    assert bad.stopped and bad.epochs == 2 and "after epoch" in capsys.readouterr().out
    assert tuning.best is good
    # a new driver fills the rungs: its first trial is compared with the recorded ones
    (tmp_path / "mine.hyper").write_text("n_mm_layers choice [1]\nweight_decay choice [0.0, 1000.0, 2000.0]\n")
    _, again = tune("MambaRec", "planted", **arguments, jobs=1, on_ray=settings)
    assert [r.epochs for r in again.records] == [8, 2, 2] and again.records[2].stopped
    # a search without early stopping repeats the trials that were stopped early
    (tmp_path / "mine.hyper").write_text("n_mm_layers choice [1]\nweight_decay choice [0.0, 1000.0]\n")
    _, whole = tune("MambaRec", "planted", **arguments)
    assert [r.epochs for r in whole.records] == [8, 8]


def kill_trials(folder: Path, times: dict[str, float], stop: threading.Event) -> None:
    """Kill the process that makes the trial of a key once it has saved a checkpoint, as often as ``times`` says."""
    while not stop.is_set():
        for lock in folder.glob("running/*.lock"):
            key = lock.stem.rpartition("-")[2]
            if times.get(key, 0) < 1 or not lock.with_suffix(".pth").exists():
                continue
            for process in psutil.process_iter():
                try:
                    held = [file.path for file in process.open_files()]
                except psutil.Error:
                    continue
                if str(lock) in held and process.pid != os.getpid():
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait(10)
                    times[key] -= 1
        time.sleep(0.05)


@posix
def test_a_worker_that_is_killed(cluster, tmp_path, monkeypatch):
    """One trial is killed whenever it runs, and fails; the other one is killed once, continues and finishes."""
    # ray's own functions find nothing until its storage is synchronised, possibly after the trial has failed
    for reader in ("get_error", "get_pickled_error"):
        monkeypatch.setattr(f"ray.tune.experiment.trial.Trial.{reader}", lambda self: None)
    arguments = searched(tmp_path, "n_mm_layers choice [0, 1]\n", epochs=150, stopping_step=200)
    base = resolve("MambaRec", "planted", overrides=arguments["overrides"])
    search = Search(base, read_space(arguments["params_file"]))
    keys = [search.run({"n_mm_layers": n}).key[:16] for n in (0, 1)]
    search.folder.mkdir(parents=True)
    times, stop = {keys[0]: 9, keys[1]: 1}, threading.Event()
    killer = threading.Thread(target=kill_trials, args=(search.folder.resolve(), times, stop))
    killer.start()
    try:
        record, tuning = tune("MambaRec", "planted", **arguments, on_ray=RaySettings(cluster, grace=0))
    finally:
        stop.set()
        killer.join()
    assert times[keys[1]] == 0 and times[keys[0]] == 9 - 2  # the first try and one more
    assert tuning.best.point == {"n_mm_layers": 1} and record.epochs == 150
    assert [entry["epoch"] for entry in record.curve] == list(range(150))
    (failed,) = [t for t in store.read(search.trials_file) if t.status == "failed"]
    assert failed.point == {"n_mm_layers": 0} and "its process died, 2 times" in failed.error


def test_only_the_driver_reads_the_data(cluster, tmp_path, monkeypatch):
    """Once the data are sent, nothing is needed of the files but that there is a dataset; scores are those of files."""
    arguments = searched(tmp_path, "n_mm_layers choice [0, 1]\n")
    base = resolve("MambaRec", "planted", overrides=arguments["overrides"])
    monkeypatch.setattr(plan, "config_data_hash", lambda _: base.data_hash)
    search = Search(base, read_space(arguments["params_file"]))
    here = {n: trial(search.run({"n_mm_layers": n}), None, lambda _: None).valid for n in (0, 1)}
    shutil.rmtree("saved", ignore_errors=True)
    sent = []

    def send(trials):
        sent.append(original(trials))
        for file in (tmp_path / "planted").iterdir():
            lines = file.read_bytes().splitlines()[:2] if file.suffix in (".inter", ".item") else []
            file.write_bytes(b"\n".join(lines))
        return sent[0]

    def put(value, *args, **kwargs):
        puts.append(type(value))
        return stored(value, *args, **kwargs)

    original, stored, puts = on_ray._Trials._data, ray.put, []
    monkeypatch.setattr(ray, "put", put)
    monkeypatch.setattr(on_ray._Trials, "_data", send)
    tuning = Tuning(search, progress=False)
    on_ray.run_on_ray(tuning, None, RaySettings(cluster, grace=0))
    # what is put once is sent to each node once, whose store gives it to all of its processes
    assert len(sent) == 1 and puts.count(on_ray.SharedData) == 1
    assert len(tuning.records) == 2 and not tuning.failures
    assert {record.point["n_mm_layers"]: record.valid for record in tuning.records} == here


CRASHING = """
import os, sys
from recbole_mambarec.experiments import tuning
from recbole_mambarec.experiments.hyper import tune
from recbole_mambarec.experiments.on_ray import RaySettings

if __name__ == "__main__":
    said = tuning.Tuning.tell
    def tell(self, *args, **kwargs):
        said(self, *args, **kwargs)
        os.kill(os.getpid(), 9)
    tuning.Tuning.tell = tell
    tune("MambaRec", "planted", {overrides!r}, params_file={file!r}, progress=False, jobs=1,
         on_ray=RaySettings({cluster!r}, grace=0))
"""


@posix
def test_a_search_continues_after_its_driver_was_killed(cluster, tmp_path, capsys):
    arguments = searched(tmp_path, "n_mm_layers choice [0, 1]\n")
    script = tmp_path / "crashing.py"
    script.write_text(
        CRASHING.format(overrides=arguments["overrides"], file=str(arguments["params_file"]), cluster=cluster)
    )
    done = warm.python(str(script), env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (file,) = Path("tuning").glob("*/trials.jsonl")
    (first,) = file.read_text().splitlines()
    _, tuning = tune("MambaRec", "planted", **arguments, on_ray=RaySettings(cluster, grace=0))
    assert "1 are already recorded" in capsys.readouterr().out
    assert len(tuning.records) == 2 and file.read_text().splitlines()[0] == first


def test_a_cluster_of_its_own(tmp_path):
    """Only the search prints anything; a mistake that only a trial notices is explained."""
    arguments = searched(tmp_path, "variant choice ['best', 'released']\n")
    options = [f"--{key}={value}" for key, value in arguments["overrides"].items()]
    command = [sys.executable, str(ROOT / "run_hyper.py"), "--tool=ray", "--model=MambaRec", "--dataset=planted"]
    done = subprocess.run(
        [*command, "--params_file=mine.hyper", "--grace=0", *options],
        check=False,
        capture_output=True,
        text=True,
        # the address is that of a cluster that the search is not to be made on; ray leaves a token at home
        env=os.environ
        | {"RAY_ADDRESS": "127.0.0.1:1", "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
        # of RecBole's own text, wherever it is compiled anew
        | {"PYTHONWARNINGS": "ignore::SyntaxWarning"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *trials, best, _, _, _, use = done.stdout.strip().splitlines()
    assert first.startswith("2 trials of MambaRec on planted") and len([line for line in trials if line]) == 2
    assert any("failed: variant 'best' is unknown: use one of released, paper" in line for line in trials)
    assert best == "best of 1 trials: variant=released" and use.startswith("to use it: ")


def recboles_objective(config: dict) -> None:
    """The function that RecBole's own run_hyper.py passes to ray."""
    from recbole.quick_start import objective_function

    import recbole_mambarec  # noqa: F401

    objective_function(config_dict=config)


def test_recboles_own_objective_reports_to_ray(cluster, tmp_path):
    values = searched(tmp_path, "")["overrides"] | {"model": "BPR", "dataset": "planted", "epochs": 1}
    with on_ray._cluster(cluster), on_ray._environment(on_ray._WHILE_SEARCHING):
        tuner = ray.tune.Tuner(
            recboles_objective,
            param_space=values | {"learning_rate": ray.tune.grid_search([0.1])},
            run_config=ray.tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0),
        )
        (result,) = tuner.fit()
    assert 0 <= result.metrics["recall@20"] <= 1 and result.metrics["config"]["learning_rate"] == 0.1


def test_no_cluster_at_the_address(tmp_path):
    refused(tmp_path, r"there is no ray cluster at '127\.0\.0\.1:1'", RaySettings("127.0.0.1:1"))


def test_without_ray(tmp_path, monkeypatch):
    # as if there were not even a folder of it
    for name in ("ray", "ray.tune"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("recbole_mambarec_common.extras.is_installed", lambda name: not name.startswith("ray"))
    refused(tmp_path, r'^this needs the package ray \(.*\): pip install "recbole-mambarec\[ray\]"$')


@pytest.mark.parametrize("raised", ["OSError('x.so: bad\\nat 0')", "AttributeError('np.bool8')", "ImportError('it')"])
def test_a_broken_ray(raised, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ray.py").write_text(f"raise {raised}")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    refused(
        tmp_path, "^this needs the package ray.*, which is installed but cannot be imported .*: pip install [^\n]*ray"
    )


def test_a_ray_that_is_too_old(tmp_path, monkeypatch):
    monkeypatch.delattr("ray.tune.get_context")
    monkeypatch.setattr("ray.__version__", "2.6.3")
    refused(tmp_path, r'^this needs ray 2\.45 or newer, and 2\.6\.3 is installed: pip install --upgrade "recbole')


def test_a_cluster_with_another_ray(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.__version__", "2.99.0")
    sentence = rf"^the ray cluster at '{cluster}' has other versions of ray or Python: .*2\.99\.0"
    refused(tmp_path, sentence, RaySettings(cluster))


@pytest.mark.parametrize("much", [{"trial_cpus": 1.5}, {"trial_gpus": 0.5}])
def test_no_room_for_a_trial(cluster, tmp_path, much):
    refused(tmp_path, r"^no node of the ray cluster has room .*: .*--trial_gpus", RaySettings(cluster, grace=0, **much))


def test_as_many_trials_at_a_time_as_fit(cluster):
    with on_ray._cluster(cluster):
        assert [on_ray._room({"cpu": cpus, "gpu": 0}) for cpus in (1, 0.5, 0.1)] == [2, 4, 20]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--halving=1"], "halving must be at least 2, got 1"),
        (["--trial_cpus=0"], "trial_cpus must be at least 0.01"),
        (["--grace=-1"], "grace must be at least 0"),
    ],
)
def test_faulty_settings(options, sentence):
    with pytest.raises(UserError, match=sentence):
        hyper.main(["--tool=Ray", "--dataset=planted", *options])
