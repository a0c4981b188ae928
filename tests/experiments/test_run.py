"""One run: the record has what RecBole reports, and an interrupted run gives the same result as a whole one."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.quick_start import run_recbole
from recbole.trainer import Trainer

from recbole_mambarec.data.fingerprint import data_hash
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import group, processes, provenance, run, store, users
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.significance import over_seeds
from recbole_mambarec.run_keys import run_key
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec.trainer import MultimodalTrainer
from recbole_mambarec_common.files import locked
from tests import warm
from tests.helpers import posix

pytest.importorskip("polars")  # results per user are kept by default

RUNS = Path("results/runs.jsonl")


@pytest.fixture
def data(tmp_path):
    return write_planted(tmp_path)


def planned(data, model="MambaRec", **overrides):
    label = overrides.pop("label", None)
    values = {k: v for k, v in QUICK.items() if k != "knn_k" or model == "MambaRec"}
    return resolve(model, data.name, overrides=values | {"data_path": str(data.parent)} | overrides, label=label)


# ------------------------------------------------------------------------------------------------------------
# before


def test_the_key_ignores_what_cannot_change_a_result(data, tmp_path):
    key = planned(data).key
    same = [
        planned(data, show_progress=True, eval_batch_size=64, checkpoint_dir="elsewhere", gpu_id="", state="ERROR"),
        planned(data, learning_rate="0.01", mask_valid_in_test=False, protocol="multimodal", label="mine"),
        planned(data, mmd_weight=0.15, temperature=None, reg_weight=1e-4, cl_weight=0.01),
    ]
    shutil.copytree(data, tmp_path / "copy" / data.name)
    same.append(planned(tmp_path / "copy" / data.name))
    assert {each.key for each in same} == {key}
    others = [
        planned(data, mmd_weight=0.2),
        planned(data, seed=1),
        planned(data, beyond_accuracy=True),
        planned(data, modalities=["image"]),
        planned(data, topk=[5], valid_metric="Recall@5"),
        planned(data, model="BPR"),
        planned(data).with_seed(1000),
    ]
    assert len({each.key for each in others} | {key}) == len(others) + 1


def test_the_key_can_be_computed_from_the_record_of_the_run(data):
    plan = planned(data)
    config = json.loads(json.dumps(plan.config))
    assert run_key("MambaRec", config, 999, plan.data_hash) == plan.key
    assert str(data.parent) not in json.dumps(plan.config) + json.dumps(plan.overrides)


def test_overrides_are_what_the_user_gave(data, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("mmd_weight: 0.2\nseed: 7\ntopk: [5, 10]\nvalid_metric: Recall@5\n")
    resolved = resolve("MambaRec", data.name, None, {"data_path": str(tmp_path), "topk": "[5]"}, [str(file)])
    assert resolved.seed == 7 and resolved.config["topk"] == [5]
    assert resolved.overrides == {"mmd_weight": 0.2, "topk": [5], "valid_metric": "Recall@5"}


def test_the_fingerprint_of_the_data(data):
    before = data_hash(data, data.name)
    (data / "dataset.json").write_text("{}")
    (data / f"{data.name}.item.bak").write_text("kept by an editor")
    assert data_hash(data, data.name) == before
    for part in ("train.inter", "test.inter", "item"):
        path = data / f"{data.name}.{part}"
        content = path.read_text()
        path.write_text(content + content.splitlines()[-1] + "\n")
        assert data_hash(data, data.name) != before
        path.write_text(content)
        assert data_hash(data, data.name) == before
    matrix = np.load(data / f"{data.name}.text.npy")
    np.save(data / f"{data.name}.text.npy", matrix * 2)
    assert data_hash(data, data.name) != before
    with pytest.raises(UserError, match="no data files of 'other'"):
        data_hash(data, "other")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"resume_from": "x.pth"}, "continues from its own checkpoint"),
        ({"nproc": 2}, "takes one process"),
        ({"eval_step": 0}, "eval_step must be at least 1 here"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": "first"}, "seed must be a whole number from 0"),
        ({"beyond_accuracy": "some"}, "beyond_accuracy must be True or False"),
        ({"learnin_rate": 1}, "did you mean 'learning_rate'"),
    ],
)
def test_refused_configurations(data, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        planned(data, **overrides)


def test_what_recbole_refuses_is_explained(tmp_path):
    with pytest.raises(
        UserError, match=r"SASRec with loss_type CE compares with all items.*train_neg_sample_args=None"
    ):
        resolve("SASRec", "ml-100k")


# ------------------------------------------------------------------------------------------------------------
# the run


@pytest.mark.parametrize("model", ["MambaRec", "BPR"])
def test_a_record_holds_what_recbole_reports(data, model):
    plan = planned(data, model, epochs=4, beyond_accuracy=True)
    record = run.execute(plan, RUNS)
    assert store.read(RUNS) == [record] and record.status == "finished" and record.error is None
    for mask, masked in zip(store.MASKS, (False, True)):
        values = plan.given | {"mask_valid_in_test": masked, "checkpoint_dir": "others"}
        expected = run_recbole(model, data.name, config_dict=values)
        # which has four decimals, the record six
        assert record.test[mask] == pytest.approx(dict(expected["test_result"]), abs=5.1e-5)
        assert record.valid == dict(expected["best_valid_result"])
    assert {"recall@20", "ndcg@10", "itemcoverage@10", "giniindex@20", "averagepopularity@10", "tailpercentage@20"} <= {
        *record.test["train"]
    }
    assert record.test["train"] != record.test["train+valid"]
    assert any(round(value, 4) != value for value in record.test["train"].values())

    curve = record.curve
    assert [entry["epoch"] for entry in curve] == [0, 1, 2, 3] and record.epochs == 4
    assert set(curve[0]["loss"]) == ({"bpr", "reg", "contrastive", "mmd"} if model == "MambaRec" else {"loss"})
    scores = [entry["valid"]["recall@20"] for entry in curve]
    assert scores[record.best_epoch] == max(scores) == record.valid["recall@20"]
    assert record.seconds == pytest.approx(sum(e["train_seconds"] + e["valid_seconds"] for e in curve), abs=0.06)
    if model == "BPR":
        assert record.parameters == (61 + 49) * 16  # padding included
    assert record.peak_memory_gib > 0.05 and record.device == "cpu"
    assert {"python", "torch", "recbole", "recbole_mambarec"} <= set(record.versions)
    assert not list(plan.checkpoint.parent.glob("*.curve.jsonl"))


def test_the_revision_of_this_source_tree_only(monkeypatch, tmp_path):
    state = provenance.git_state.__wrapped__()
    if state is not None:  # the tests may run from an unpacked archive
        assert len(state["revision"]) == 40 and isinstance(state["dirty"], bool)
    inside = tmp_path / "site" / "recbole_mambarec" / "experiments"
    inside.mkdir(parents=True)
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "__file__", str(inside / "provenance.py"))
    assert provenance.git_state.__wrapped__() is None


class _Interrupt:
    """Stops a trainer class at the beginning of an epoch, as Ctrl-C would."""

    def __init__(self, monkeypatch, trainer, at):
        original, self.epochs = trainer._train_epoch, []

        def train(trainer, data, epoch, *args, **kwargs):
            if epoch == at and at not in self.epochs:
                self.epochs.append(epoch)
                raise KeyboardInterrupt
            self.epochs.append(epoch)
            return original(trainer, data, epoch, *args, **kwargs)

        monkeypatch.setattr(trainer, "_train_epoch", train)


def outcome(record):
    """The part of a record that must not depend on interruptions."""
    curve = [{key: entry[key] for key in ("epoch", "valid", "loss")} for entry in record.curve]
    return {**{key: getattr(record, key) for key in ("key", "valid", "test", "best_epoch", "epochs")}, "curve": curve}


def test_an_interrupted_run_continues_exactly(data, monkeypatch):
    whole = run.execute(planned(data, epochs=7), "whole.jsonl")
    shutil.rmtree("saved")
    plan = planned(data, epochs=7, checkpoint_interval=0)
    interrupt = _Interrupt(monkeypatch, MultimodalTrainer, 5)
    with pytest.raises(KeyboardInterrupt):
        run.execute(plan, RUNS)
    assert not RUNS.exists()
    state = torch.load(plan.checkpoint, weights_only=True)
    saved = state.get("resume", state)["epoch"]
    assert saved >= 1  # otherwise this test would show little
    record = run.execute(plan, RUNS)
    assert interrupt.epochs == [0, 1, 2, 3, 4, 5, *range(saved + 1, 7)]
    result, expected = outcome(record), outcome(whole)
    for mine, other in zip(result.pop("curve"), expected.pop("curve")):
        assert mine["loss"] == pytest.approx(other.pop("loss"), rel=1e-5) and mine["valid"] == other["valid"]
    assert result == expected


@pytest.mark.parametrize("spoil", ["checkpoint", "curve"])
def test_a_run_with_damaged_files_starts_again(data, monkeypatch, spoil):
    plan = planned(data, epochs=4, checkpoint_interval=0)
    interrupt = _Interrupt(monkeypatch, MultimodalTrainer, 3)
    with pytest.raises(KeyboardInterrupt):
        run.execute(plan, RUNS)
    curve = plan.checkpoint.with_suffix(".curve.jsonl")
    path = plan.checkpoint if spoil == "checkpoint" else curve
    path.write_bytes(path.read_bytes()[:20])
    record = run.execute(plan, RUNS)
    assert interrupt.epochs[4:] == [0, 1, 2, 3]
    assert [entry["epoch"] for entry in record.curve] == [0, 1, 2, 3]


def test_recboles_own_trainers_start_again(data, monkeypatch):
    plan = planned(data, "BPR", epochs=4)
    interrupt = _Interrupt(monkeypatch, Trainer, 2)
    with pytest.raises(KeyboardInterrupt):
        run.execute(plan, RUNS)
    record = run.execute(plan, RUNS)
    assert interrupt.epochs == [0, 1, 2, 0, 1, 2, 3]
    assert [entry["epoch"] for entry in record.curve] == [0, 1, 2, 3]


def test_a_failure_is_recorded_without_paths_of_the_machine(data, capfd):
    def broken(*_, **__):
        raise RuntimeError(f"cannot open {Path.cwd()}/dataset/x\nsecond line")

    plan = planned(data, "BPR")
    original, Trainer._valid_epoch = Trainer._valid_epoch, broken
    try:
        record = run.execute(plan, RUNS)
    finally:
        Trainer._valid_epoch = original
    assert record.status == "failed" and record.error == "RuntimeError: cannot open dataset/x"
    assert (record.test, record.valid, record.best_epoch) == ({}, {}, None)
    assert "Traceback" in capfd.readouterr().err
    assert store.read(RUNS) == [record]


def test_a_mistake_in_a_model_is_recorded_as_a_sentence(data, capfd):
    record = run.execute(planned(data, variant="best"), RUNS)
    assert record.error == "variant 'best' is unknown: use one of released, paper"
    assert "Traceback" not in capfd.readouterr().err


def test_data_that_changed_in_between(data):
    plan = planned(data, "BPR")
    matrix = np.load(data / f"{data.name}.text.npy")
    np.save(data / f"{data.name}.text.npy", matrix + 1)
    assert "have changed since it was planned" in run.execute(plan, RUNS).error


def test_a_run_of_another_process_is_refused(data):
    plan = planned(data, "BPR", epochs=1)
    plan.checkpoint.parent.mkdir()
    with open(plan.checkpoint.with_suffix(".lock"), "ab") as lock, locked(lock), pytest.raises(run.Busy):
        run.execute(plan, RUNS)
    assert not RUNS.exists()
    assert run.execute(plan, RUNS).status == "finished"


def test_a_run_needs_a_validation(data):
    record = run.execute(planned(data, "BPR", epochs=2, eval_step=5, stopping_step=1), RUNS)
    assert record.status == "finished"  # RecBole lowers eval_step to epochs
    with pytest.raises(UserError, match="eval_step must be at least 1 here"):
        planned(data, "BPR", epochs=1, eval_step=0)


# ------------------------------------------------------------------------------------------------------------
# models of all kinds


def interactions(folder: Path, columns: str, rows) -> Path:
    """An ordinary RecBole dataset: one file of interactions."""
    folder.mkdir()
    text = "\t".join(["user_id:token", "item_id:token", *columns.split()]) + "\n"
    (folder / f"{folder.name}.inter").write_text(text + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(("model", "computes"), [("EASE", True), ("ThreeViews", True), ("BPR", False)])
def test_what_is_computed_when_a_model_is_built_counts_as_training(data, model, computes):
    record = run.execute(planned(data, model=model, epochs=1), RUNS, per_user=False)
    (epoch,) = record.curve
    assert ("computing_seconds" in epoch) == computes
    if computes:
        assert record.seconds >= epoch["train_seconds"] >= epoch["computing_seconds"] > 0


@pytest.mark.parametrize("model", ["Pop", "EASE", "MultiVAE", "RecVAE"])
def test_other_kinds_of_general_models(data, model):
    record = run.execute(planned(data, model, epochs=2), RUNS)
    assert record.error is None and record.per_user
    assert record.epochs == (2 if model.endswith("VAE") else 1)


def test_a_sequential_model(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", t) for u in range(20) for t, i in enumerate(rng.permutation(30)[:8])]
    data = interactions(tmp_path / "steps", "timestamp:float", rows)
    split = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    own = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None}
    settings = {"topk": [10], "valid_metric": "NDCG@10", "metrics": ["Recall", "NDCG"]}
    record = run.execute(planned(data, "GRU4Rec", epochs=1, **split, **own, **settings), RUNS)
    assert record.error is None and record.per_user
    assert list(record.test) == [store.UNMASKED] == ["none"]  # nothing is masked
    assert store.read(RUNS) == [record]
    frame = users.read(RUNS.parent / record.per_user)
    assert users.values(frame, "none", "ndcg@10").mean() == pytest.approx(record.test["none"]["ndcg@10"], abs=1e-5)
    with pytest.raises(UserError, match="under none, as nothing is masked under repeatable: True"):
        over_seeds([replace(record, label=name, seed=n) for name in "AB" for n in (1, 2)], "train", "ndcg@10")
    plan = planned(data, "GRU4Rec", epochs=1, **split, **own, **settings)
    assert "test, none masked" in group.summary([plan], [record])
    # a record of an earlier version has the same scores under the names of the masks
    before = replace(record, test=dict.fromkeys(store.MASKS, record.test["none"]))
    store.append("early.jsonl", before)
    assert store.read("early.jsonl") == [replace(record, per_user=None)]


def test_a_model_that_predicts_clicks_has_no_ranks(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", rng.integers(2)) for u in range(30) for i in rng.permutation(20)[:10]]
    data = interactions(tmp_path / "clicks", "label:float", rows)
    settings = {
        "load_col": {"inter": ["user_id", "item_id", "label"]},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
        "train_neg_sample_args": None,
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
    }
    record = run.execute(planned(data, "FM", epochs=1, **settings), RUNS)
    assert record.error is None and record.per_user is None and record.test["train"]["auc"] > 0


# ------------------------------------------------------------------------------------------------------------
# in a process of its own


def test_a_run_in_a_process_of_its_own_has_the_same_result(data):
    plan = planned(data, epochs=2)
    here = run.execute(plan, "here.jsonl")
    shutil.rmtree("saved")
    apart = run.execute_apart(plan, RUNS)
    assert store.read(RUNS) == [apart] and outcome(apart) == outcome(here)
    assert (RUNS.parent / apart.per_user).is_file()


@posix
def test_a_killed_process_is_recorded(data, monkeypatch):
    monkeypatch.setattr(processes, "_CONTEXT", warm.server())
    plan = planned(data, epochs=100_000)
    results = []
    thread = threading.Thread(target=lambda: results.append(run.execute_apart(plan, RUNS)))
    thread.start()
    curve = plan.checkpoint.with_suffix(".curve.jsonl")
    deadline = time.monotonic() + 120
    while not curve.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    (child,) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGKILL)
    thread.join(60)
    (record,) = results
    assert record.status == "failed" and "was killed by SIGKILL" in record.error
    assert store.read(RUNS) == [record]
