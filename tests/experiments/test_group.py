"""Many runs: none is repeated, none is lost, none stops the others."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recbole_mambarec.config import properties_folder
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.experiments import group, store
from recbole_mambarec.experiments.run import Busy, execute, failure, new_record
from recbole_mambarec.experiments.search import shipped_space
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.testing.planted import QUICK, write_planted
from tests import warm
from tests.experiments.test_run import RUNS
from tests.helpers import posix

pytest.importorskip("polars")  # results per user are kept by default

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path):
    return write_planted(tmp_path)


def planned(tmp_path, lines, seeds=(999,), name="comparison"):
    values = {k: v for k, v in QUICK.items() if k != "knn_k"} | {"data_path": str(tmp_path), "epochs": 1}
    return group.plan(lines, ["planted"], list(seeds), values, group=name)


class Recorder:
    """Stands in for the training: remembers the runs and returns a record for each."""

    def __init__(self, failing=(), busy=()):
        self.failing, self.busy, self.made = set(failing), set(busy), []

    def __call__(self, run, path, per_user):
        self.made.append(str(run))
        if run.label in self.busy:
            raise Busy
        scores = {"recall@20": run.seed / 10_000}
        record = failure(run, "it broke")
        if run.label not in self.failing:
            results = {"valid": scores, "seconds": 90.0, "peak_memory_gib": 0.5, "best_epoch": 0, "epochs": 1}
            record = replace(new_record(run), test=dict.fromkeys(store.MASKS, scores), **results)
        store.append(path, record)
        return record


# ------------------------------------------------------------------------------------------------------------
# what is planned


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [999]), ("1", [999]), ("3", [999, 1000, 1001]), ("7,", [7]), ("1, 2,3", [1, 2, 3])],
)
def test_seeds(text, expected):
    assert group.seeds(text) == expected


@pytest.mark.parametrize("text", ["0", "", "-1", "two", "1,1", "1.5"])
def test_faulty_seeds(text):
    with pytest.raises(UserError, match="--seeds"):
        group.seeds(text)


def test_one_seed_of_everything_comes_before_the_next(data, tmp_path):
    runs = planned(tmp_path, {"BPR": ("BPR", {}), "Pop": ("Pop", {})}, seeds=(1, 2))
    assert [str(run) for run in runs] == [f"{m}, planted, seed {s}" for s in (1, 2) for m in ("BPR", "Pop")]
    assert len({run.key for run in runs}) == 4 and all(run.given["seed"] == run.seed for run in runs)


def test_a_line_takes_precedence_over_what_holds_for_all(data, tmp_path):
    (run,) = group.plan(
        {"x": ("BPR", {"embedding_size": 8})}, ["planted"], [1], {"embedding_size": "32", "data_path": str(tmp_path)}
    )
    assert run.config["embedding_size"] == 8 and run.overrides == {"embedding_size": 8}


def test_all_models_of_a_group_are_measured_in_the_same_way():
    """On RecBole's own datasets, RecBole's models would otherwise keep another protocol."""
    runs = group.plan({"MambaRec": ("MambaRec", {}), "BPR": ("BPR", {})}, ["ml-100k"], [999])
    assert runs[0].config["metrics"] == runs[1].config["metrics"] == ["Recall", "NDCG"]
    assert group.measurement_differences(runs) == []


def test_rows_that_cannot_be_compared_are_named(data, tmp_path):
    runs = planned(tmp_path, {"BPR": ("BPR", {}), "BPR at 5": ("BPR", {"topk": [5, 20]})}, seeds=(1, 2))
    (note,) = group.measurement_differences(runs)
    assert note.startswith("BPR at 5 and BPR are not measured in the same way on planted (topk)")


def test_a_key_goes_to_the_models_that_read_it(data, tmp_path, caplog):
    """NeuMF does not read embedding_size (but mf_embedding_size); only MambaRec reads knn_k and lr_boost."""
    lines = {name: (name, {}) for name in ("BPR", "NeuMF", "MambaRec")}
    settings = {"data_path": str(tmp_path), "embedding_size": 16, "knn_k": 5, "lr_boost": 3}
    bpr, neumf, mambarec = group.plan(lines, ["planted"], [999], settings)
    assert [run.config["embedding_size"] for run in (bpr, mambarec)] == [16, 16] and "knn_k" not in bpr.config
    assert (mambarec.config["knn_k"], mambarec.config["lr_boost"]) == (5, 3)
    (alone,) = group.plan({"BPR": ("BPR", {})}, ["planted"], [999], {"data_path": str(tmp_path), "embedding_size": 16})
    assert bpr.key == alone.key and not {"embedding_size", "knn_k", "lr_boost"} & set(neumf.overrides)
    assert "misspelt" not in caplog.text
    with pytest.raises(UserError, match="BPR on planted: configuration key 'learnin_rate' is unknown"):
        group.plan(lines, ["planted"], [999], {"data_path": str(tmp_path), "learnin_rate": 1})


def test_the_shipped_ablations_change_what_their_labels_say(data, tmp_path):
    name, lines = group.read_group("mambarec-ablation")
    assert name == "mambarec-ablation" and len(lines) == 6
    runs = {run.label: run for run in planned(tmp_path, lines)}
    full = runs["MambaRec"].config
    changed = {label: {k for k in full if run.config[k] != full[k]} for label, run in runs.items()}
    assert changed == {
        "MambaRec": set(),
        "without DREAM": {"dream"},
        "without MMD": {"mmd_weight"},
        "without InfoNCE": {"cl_weight"},
        "image only": {"modalities"},
        "text only": {"modalities"},
    }
    assert group.read_group(str(properties_folder() / "group" / "mambarec-ablation.yaml"))[1] == lines


def test_every_line_of_a_shipped_group_is_another_run(data, tmp_path):
    for file in (properties_folder() / "group").glob("*.yaml"):
        _, lines = group.read_group(file.stem)
        assert len({run.key for run in planned(tmp_path, lines)}) == len(lines), file.stem


def test_the_shipped_grid_equals_the_search_space(data, tmp_path):
    _, lines = group.read_group("mambarec-grid")
    # at the published learning rate, with which the runs on record were made
    points = [overrides for _, overrides in lines.values()]
    space = [point | {"lr_boost": 1.0} for point in read_space(shipped_space("MambaRec")).grid()]
    assert len(points) == len(space) == 9 and all(point in space for point in points)
    first, *_ = planned(tmp_path, lines)
    (published,) = planned(tmp_path, {"MambaRec": ("MambaRec", {"lr_boost": 1.0})})
    assert first.key == published.key  # whose run is not made again


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("runs: [a, b]", "is not a group file"),
        ("model: BPR", "is not a group file"),
        ("model: BPR\nruns: {}", "is not a group file"),
        ("model: BPR\nrun: {}\nruns: {a: {}}", "is not a group file"),
        ("runs: {a: {}}", "'a' has no model"),
        ("model: BPR\nruns:\n  a: 3", "overrides of 'a' must be a mapping"),
        ("model: BPR\nruns:\n  a: {}\n  a: {}", "'a' is listed twice"),
        ("model: BPR\nruns: {", "is not a YAML file"),
    ],
)
def test_faulty_group_files(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        group.read_group(str(path))


def test_a_missing_group_file():
    with pytest.raises(UserError, match=r"group 'none.yaml' not found: .*mambarec-ablation"):
        group.read_group("none.yaml")


# ------------------------------------------------------------------------------------------------------------
# execution


LINES = {name: ("BPR", {"embedding_size": size}) for name, size in (("a", 4), ("b", 8), ("c", 12))}


def test_a_failure_stops_nothing_and_is_tried_again(data, tmp_path, capsys):
    runs = planned(tmp_path, LINES)
    first = Recorder(failing={"b"})
    records = group.run_all(runs, RUNS, execute=first)
    assert [record.status for record in records] == ["finished", "failed", "finished"]
    assert "[2/3] b, planted, seed 999: failed: it broke" in capsys.readouterr().out
    second = Recorder()
    records = group.run_all(runs, RUNS, execute=second)
    assert second.made == ["b, planted, seed 999"]
    assert [record.status for record in records] == ["finished"] * 3
    third = Recorder()
    assert group.run_all(runs, RUNS, execute=third) == records and third.made == []


def test_an_interrupted_group_keeps_its_records(data, tmp_path):
    runs, recorder = planned(tmp_path, LINES, seeds=(1, 2)), Recorder()

    def interrupted(run, path, per_user):
        if len(recorder.made) == 4:
            raise KeyboardInterrupt
        return recorder(run, path, per_user)

    with pytest.raises(KeyboardInterrupt):
        group.run_all(runs, RUNS, execute=interrupted)
    assert len(store.read(RUNS)) == 4
    rest = Recorder()
    group.run_all(runs, RUNS, execute=rest)
    assert rest.made == ["b, planted, seed 2", "c, planted, seed 2"]


def test_a_run_of_another_group_is_recorded_again_under_the_new_name(data, tmp_path):
    group.run_all(planned(tmp_path, {"BPR": ("BPR", {})}), RUNS, execute=Recorder())
    runs = planned(tmp_path, {"full": ("BPR", {}), "again": ("BPR", {})}, name="ablation")
    recorder = Recorder()
    for _ in range(2):
        group.run_all(runs, RUNS, execute=recorder)
    names = [(record.group, record.label) for record in store.read(RUNS)]
    assert recorder.made == []
    assert names == [("comparison", "BPR"), ("ablation", "full"), ("ablation", "again")]
    assert len({record.key for record in store.read(RUNS)}) == 1


def test_a_run_recorded_under_an_older_key_is_not_made_again(data, tmp_path):
    (run,) = planned(tmp_path, {"BPR": ("BPR", {})})
    Recorder()(replace(run, key="of an older version"), RUNS, True)
    for _ in range(2):
        recorder = Recorder()
        (record,) = group.run_all([run], RUNS, execute=recorder)
        assert record.key == "of an older version" and recorder.made == []
    assert len(store.read(RUNS)) == 1


def test_two_lines_that_are_the_same_run_are_made_once(data, tmp_path):
    recorder = Recorder()
    records = group.run_all(planned(tmp_path, {"x": ("BPR", {}), "y": ("BPR", {})}), RUNS, execute=recorder)
    assert recorder.made == ["x, planted, seed 999"] and [r.label for r in records] == ["x", "y"]


def test_a_run_of_another_process_is_left_out(data, tmp_path, capsys):
    runs = planned(tmp_path, LINES)
    records = group.run_all(runs, RUNS, execute=Recorder(busy={"a"}))
    assert [record.label for record in records] == ["b", "c"]
    assert "another process is running it" in capsys.readouterr().out


def test_the_summary_counts_seeds_and_names_failures(data, tmp_path):
    runs = planned(tmp_path, LINES, seeds=(1000, 2000))
    records = group.run_all(runs, RUNS, execute=Recorder(failing={"b"}))
    lines = group.summary(runs, records).splitlines()
    assert lines[0].split()[:5] == ["model", "dataset", "seeds", "metric", "valid"]
    a, b, _ = lines[1:4]
    assert a.split()[:8] == ["a", "planted", "2/2", "recall@20", "0.1500", "±", "0.0707", "0.1500"]
    assert a.split()[-2:] == ["1.5", "0.5"]
    assert b.split() == ["b", "planted", "0/2", "recall@20", "-", "-", "-", "-", "-"]
    assert lines[4:] == [f"failed: b, planted, seed {seed}: it broke" for seed in (1000, 2000)]


def test_per_user_results_can_be_left_out(data, tmp_path):
    runs = planned(tmp_path, {"BPR": ("BPR", {})})
    (record,) = group.run_all(runs, RUNS, per_user=False, execute=execute)
    assert record.status == "finished" and record.per_user is None
    assert not (RUNS.parent / "per_user").exists()


# ------------------------------------------------------------------------------------------------------------
# the command


def run_command(monkeypatch, *arguments):
    """Run the command in this process, as ``python run_recbole_group.py ARGUMENTS`` does; returns the exit status."""
    monkeypatch.setattr("sys.argv", ["run_recbole_group.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(group.main)
    return stop.value.code


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name either the models with --models=A,B"),
        (["--models=BPR", "--group=x.yaml"], "name either the models with --models=A,B"),
        (["--models=BPR,BPR"], "--models=BPR,BPR names one of them twice"),
        (["--models=BPR,MambaReq"], "MambaReq on planted: there is no model 'MambaReq': did you mean MambaRec"),
        (["--models=BPR", "--dataset=planted,nowhere"], "BPR on nowhere: dataset 'nowhere' not found"),
        (["--models=BPR", "--seeds=none"], "--seeds=none is not understood"),
        (["--models=BPR", "--seeds=999"], "--seeds=999 asks for 999 seeds: to run the single seed 999, use --seed=999"),
        (["--models=BPR", "--seeds=2", "--seed=3"], "--seed and --seeds exclude each other"),
        (["--models=BPR", "--seed=many"], "seed: many is not understood"),
        (["--models=BPR", "--learnin_rate=1"], "did you mean 'learning_rate'"),
        (["--models=BPR", "epochs=1"], "argument 'epochs=1' is not understood"),
        (["--models=BPR", "--epochs=1", "--epochs=2"], "--epochs is given more than once"),
        (["--models=BPR", "--config_files=none.yaml"], "configuration file 'none.yaml' not found"),
        (["--models=BPR", "--nproc=2"], "nproc cannot be given here"),
        (["--models=BPR", "--test_latex=x.tex"], "recbole_mambarec report` writes the tables"),
        (["--models=BPR,VBPR", "--modalities=['audio']"], "VBPR on planted: dataset 'planted' has no modality 'audio'"),
    ],
)
def test_mistakes_cost_one_sentence_and_nothing_is_run(data, tmp_path, monkeypatch, capsys, arguments, sentence):
    given = [f"--data_path={tmp_path}"] + ([] if "--dataset=" in " ".join(arguments) else ["--dataset=planted"])
    assert run_command(monkeypatch, *arguments, *given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in line
    assert not RUNS.exists() and not Path("saved").exists()


def test_a_file_of_runs_that_cannot_be_written_is_noticed_first(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    given = ["--models=BPR", "--dataset=planted", f"--data_path={tmp_path}"]
    for runs, reason in (("file/runs.jsonl", "exists"), ("planted", "Is a directory")):
        assert run_command(monkeypatch, *given, f"--runs={runs}") == 2
        assert reason in capsys.readouterr().err
    assert not Path("saved").exists()


def test_without_polars_nothing_is_run(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "polars", None)
    assert run_command(monkeypatch, "--models=BPR", "--dataset=planted", f"--data_path={tmp_path}") == 2
    assert "[compare]" in capsys.readouterr().err


def test_options_of_recbole_and_seeds(data, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(group, "execute_apart", recorder)
    given = ["--dataset=planted", f"--data_path={tmp_path}", "--runs=mine/runs.jsonl"]
    assert run_command(monkeypatch, "--model_list=BPR,LightGCN", "--seed=5", "--label=x y", *given) == 0
    assert recorder.made == ["BPR (x y), planted, seed 5", "LightGCN (x y), planted, seed 5"]
    (tmp_path / "mine.yaml").write_text("model: BPR\nruns: {small: {embedding_size: 4}, broken: {embedding_size: 8}}\n")
    recorder.failing.add("broken")
    assert run_command(monkeypatch, "--group=mine.yaml", "--seeds=2", *given) == 1
    assert len(store.read("mine/runs.jsonl")) == 6 and not RUNS.exists()


def test_a_configuration_file_names_dataset_seed_and_model(data, tmp_path, monkeypatch):
    """As for the other scripts, the command line takes precedence. So the result of a search can be run again."""
    recorder = Recorder()
    monkeypatch.setattr(group, "execute_apart", recorder)
    (tmp_path / "best.yaml").write_text(f"model: BPR\ndataset: planted\nseed: 7\ndata_path: {tmp_path}\n")
    assert run_command(monkeypatch, "--config_files=best.yaml") == 0
    assert run_command(monkeypatch, "--config_files=best.yaml", "--models=LightGCN", "--seeds=2") == 0
    expected = ["BPR, planted, seed 7", "LightGCN, planted, seed 999", "LightGCN, planted, seed 1000"]
    assert recorder.made == expected


@posix
def test_the_script_is_interrupted_and_goes_on(data, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the middle of the first of two runs; the second one fails."""
    (tmp_path / "mine.yaml").write_text("model: MambaRec\nruns: {full: {}, broken: {variant: best}}\n")
    values = QUICK | {"data_path": tmp_path, "epochs": 40, "seed": 3, "checkpoint_interval": 0}
    arguments = ["--group=mine.yaml", "--dataset=planted", *(f"--{key}={value}" for key, value in values.items())]
    process = warm.Python(str(ROOT / "run_recbole_group.py"), *arguments)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        curves = list(tmp_path.glob("saved/*.curve.jsonl"))
        if curves and len(curves[0].read_text().splitlines()) >= 3:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    status, output = process.wait(60), process.output()
    assert status == 130, output
    assert "stopped: the same command continues" in output and "Traceback" not in output
    assert not RUNS.exists()
    before = [json.loads(line) for line in curves[0].read_text().splitlines()[:2]]
    with pytest.raises(ProcessLookupError):  # soon no process of the session is left
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)

    monkeypatch.setattr(group, "execute_apart", execute)
    assert run_command(monkeypatch, *arguments) == 1
    finished, _ = store.read(RUNS)
    assert (finished.label, finished.status, finished.epochs) == ("full", "finished", 40)
    assert [entry["epoch"] for entry in finished.curve] == list(range(40))
    assert finished.curve[:2] == before  # their seconds included: they were not trained again
    assert "failed: broken, planted, seed 3: variant 'best' is unknown" in capsys.readouterr().out.splitlines()[-2]
