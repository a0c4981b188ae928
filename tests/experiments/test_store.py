"""Records: appended whole, read with care."""

import json
import math
import threading
from dataclasses import replace

import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.store import Record


def record(**changes) -> Record:
    """A finished run."""
    values = {
        "key": "k",
        "group": "comparison",
        "label": "BPR",
        "model": "BPR",
        "dataset": "planted",
        "seed": 999,
        "overrides": {},
        "config": {"valid_metric": "Recall@20"},
        "data_hash": "d",
        "versions": {"python": "3.11"},
        "git": None,
        "valid": {"recall@20": 0.5},
        "test": {mask: {"recall@20": 0.4} for mask in store.MASKS},
        "best_epoch": 1,
        "epochs": 3,
        "seconds": 60.0,
        "peak_memory_gib": 0.5,
        "parameters": 100,
    }
    return Record(**values | changes)


def line(**changes) -> str:
    """A finished run as a line of a file; None leaves a field out."""
    values = record().to_json() | changes
    return json.dumps({name: value for name, value in values.items() if changes.get(name, 0) is not None})


def test_the_layout_of_a_line():
    names = [
        *("format", "key", "group", "label", "model", "dataset", "seed", "overrides", "config", "data_hash"),
        *("versions", "git", "device", "status", "error", "valid", "test", "curve", "best_epoch", "epochs"),
        *("seconds", "peak_memory_gib", "parameters", "per_user"),
    ]
    assert list(record().to_json()) == names
    trial = record(point={"n": 1}, score=0.5, wall_seconds=3.0, memory_gib=1.0)
    assert list(trial.to_json()) == [*names, "point", "score", "stopped", "wall_seconds", "memory_gib"]
    for each in (record(), trial):
        assert Record.from_json(json.loads(json.dumps(each.to_json()))) == each
    # a later version may have added a field
    assert Record.from_json(record().to_json() | {"mood": "good"}) == record()


def test_what_is_appended_is_read_back_in_order(tmp_path):
    path = tmp_path / "results" / "runs.jsonl"
    written = [record(key=key, label=f"Modèle {key}") for key in "abc"]
    for each in written:
        store.append(path, each)
    assert store.read(path) == written
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def test_writers_at_the_same_time_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "runs.jsonl"
    writers = [
        threading.Thread(target=lambda n=n: [store.append(path, record(key=f"{n}-{k}")) for k in range(20)])
        for n in range(5)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {each.key for each in store.read(path)} == {f"{n}-{k}" for n in range(5) for k in range(20)}


@pytest.mark.parametrize("torn", [b'{"format": "recbole_mambarec.run/1", "key": "b", "lab', b'{"label": "\xc3', b"{"])
def test_a_line_cut_off_is_named_and_costs_no_other(tmp_path, caplog, torn):
    path = tmp_path / "runs.jsonl"
    store.append(path, record(key="a"))
    with open(path, "ab") as stream:
        stream.write(torn)
    assert [each.key for each in store.read(path)] == ["a"]
    assert "line 2 of" in caplog.text and "is incomplete" in caplog.text
    # the next run is on a line of its own
    store.append(path, record(key="c"))
    assert [each.key for each in store.read(path)] == ["a", "c"]


def test_zeros_that_a_power_failure_left_do_no_harm(tmp_path):
    path = tmp_path / "runs.jsonl"
    store.append(path, record(key="a"))
    with open(path, "ab") as stream:
        stream.write(b"\0" * 100)
    store.append(path, record(key="b"))
    assert [each.key for each in store.read(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"label": "BPR", "model": "BPR", "test": {}}', "line 1 .* it does not name its format"),
        (line(format="recbole_mambarec.run/9"), "its format is 'recbole_mambarec.run/9'"),
        (line(curve=None), "field 'curve' is missing"),
        (line(seed="999"), "field 'seed' is '999'"),
        (line(status="done"), "field 'status' is 'done'"),
        (line(point=[1]), r"field 'point' is '\[1\]'"),
        ("[1, 2]", "line 1 .* it is a list"),
        ("model,recall\nBPR,0.1", "line 1 .* is not JSON"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, sentence):
    path = tmp_path / "runs.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(UserError, match=sentence):
        store.read(path)


def test_a_missing_file_of_runs(tmp_path):
    with pytest.raises(UserError, match="there is no file of runs"):
        store.read(tmp_path / "runs.jsonl")
    with pytest.raises(UserError, match="cannot be read as a file of runs: Is a directory"):
        store.read(tmp_path)


def test_a_value_of_another_type_is_a_defect(tmp_path):
    with pytest.raises(ValueError, match="field 'valid' is 'None'"):
        store.append(tmp_path / "runs.jsonl", record(valid=None))
    assert not (tmp_path / "runs.jsonl").exists()


def test_numbers_that_are_not_finite_become_none(tmp_path):
    path = tmp_path / "runs.jsonl"
    store.append(path, record(curve=[{"epoch": 0, "loss": {"bpr": math.inf}, "valid": {"gauc": math.nan}}]))
    assert store.read(path)[0].curve == [{"epoch": 0, "loss": {"bpr": None}, "valid": {"gauc": None}}]


def test_the_latest_record_of_a_run_is_a_finished_one_if_there_is_any():
    failed = record(key="a", status="failed", error="out of memory")
    again = replace(failed, error="out of disk")
    finished = record(key="a")
    other = record(key="a", label="full", group="ablation")
    assert store.latest([failed, again]) == [again]
    assert store.latest([failed, finished, other, again]) == [finished, other]
    assert store.finished([failed, finished, again])["a"] == finished
    assert store.finished([failed]) == {}
