"""From records to rows."""

from dataclasses import replace

import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.report import load
from recbole_mambarec.run_keys import run_key
from tests.experiments.test_store import record


def run(label="BPR", seed=1, group="comparison", dataset="d", data_hash="h", model=None, **config):
    config = {"valid_metric": "Recall@20"} | config
    key = run_key(model or label, config, seed, data_hash)
    return record(
        key=key, label=label, model=model or label, seed=seed, group=group, dataset=dataset, data_hash=data_hash,
        config=config,
    )  # fmt: skip


def write(path, *records):
    for each in records:
        store.append(path, each)
    return path


def test_seeds_share_a_row_and_configurations_do_not():
    rows = load.rows([run(seed=2), run(seed=1), run(seed=1, epochs=5), run("VBPR")])
    found = [(row.label, row.seeds) for row in rows]
    assert found == [("BPR (epochs=unset)", [1, 2]), ("BPR (epochs=5)", [1]), ("VBPR", [1])]


def test_a_record_older_than_a_key_has_its_neutral_value():
    rows = load.rows([run(seed=1), run(seed=2, lr_boost=1.0), run(seed=1, lr_boost=3)])
    assert [(row.label, row.seeds) for row in rows] == [("BPR (lr_boost=1)", [1, 2]), ("BPR (lr_boost=3)", [1])]


def test_many_differences_are_named_by_a_fingerprint():
    one, other = load.rows([run(a=1, b=1, c=1, d=1), run(a=2, b=2, c=2, d=2)])
    assert one.label.startswith("BPR (configuration ") and one.label != other.label


def test_different_data_of_one_name_are_different_datasets():
    rows = load.rows([run(data_hash="a" * 64), run(data_hash="b" * 64), run(dataset="e")])
    assert [row.dataset for row in rows] == ["d (data aaaaaaaa)", "d (data bbbbbbbb)", "e"]


@pytest.mark.parametrize(("smaller", "chosen"), [(False, 0.5), (True, 0.1)])
def test_validation_chooses_one_configuration_of_a_label(smaller, chosen):
    scores = {0.1: 0.2, 0.5: 0.4}
    records = [replace(run("BPR", lr=lr), valid={"recall@20": score}) for lr, score in scores.items()]
    records.append(replace(run("VBPR"), valid={"recall@20": 0.1}))
    rows, notes = load.chosen_by_validation(load.rows(records), "recall@20", smaller)
    assert [(row.label, row.config.get("lr")) for row in rows] == [("BPR", chosen), ("VBPR", None)]
    assert notes == [
        f"BPR on d: lr={chosen}, the best of 2 configurations by validation recall@20; --variants shows all."
    ]


def test_a_group_of_one_model_is_an_ablation(tmp_path):
    path = write(
        tmp_path / "runs.jsonl",
        run("BPR"),
        run("VBPR"),
        run("full", model="VBPR", group="parts"),
        run("without", model="VBPR", group="parts", part=False),
        run("alone", model="BPR", group="single", lr=1),
    )
    again = [run("BPR"), run("BPR (paper)", model="BPR", lr=2)]
    labels = [row.label for row in load.read([write(tmp_path / "one.jsonl", *again)]).comparison()]
    assert labels == ["BPR", "BPR (paper)"]
    runs = load.read([path])
    assert [row.label for row in runs.comparison()] == ["BPR", "VBPR", "alone"]
    assert {name: [row.label for row in rows] for name, rows in runs.ablations().items()} == {
        "parts": ["full", "without"]
    }
    assert [row.label for row in runs.comparison("parts")] == ["full", "without"]
    with pytest.raises(UserError, match="no group 'part' in these records: there are comparison, parts, single"):
        runs.comparison("part")


def test_a_run_that_failed_and_then_finished_has_finished(tmp_path):
    failed = replace(run(), status="failed", error="x", valid={}, test={})
    runs = load.read([write(tmp_path / "runs.jsonl", failed, run(), replace(failed, key="other", label="VBPR"))])
    assert len(runs.finished) == 1 and [each.label for each in runs.failed] == ["VBPR"]


def test_the_tested_record_of_a_trial_counts_in_any_order(tmp_path):
    trained = replace(run(group="tuning"), test={})
    trials = write(tmp_path / "trials.jsonl", replace(trained, point={"lr": 1}))
    chosen = write(tmp_path / "chosen.jsonl", replace(trained, test={"train": {"recall@20": 0.7}}))
    for paths in ([trials, chosen], [chosen, trials]):
        (found,) = load.read(paths).trials
        assert found.test == {"train": {"recall@20": 0.7}} and found.point == {"lr": 1}
        assert load.read(paths).comparison() == []


def test_results_per_user_count_in_whichever_file_they_are(tmp_path):
    bare = write(tmp_path / "a.jsonl", run())
    full = write(tmp_path / "b.jsonl", replace(run(), per_user="per_user/x.parquet"))
    for paths in ([bare, full], [full, bare]):
        (row,) = load.read(paths).comparison()
        assert row.has_users


def test_results_per_user_are_found_beside_the_records(tmp_path):
    path = write(tmp_path / "runs.jsonl", replace(run(), per_user="per_user/a.parquet"))
    assert load.read([path]).finished[0].per_user == str(tmp_path / "per_user" / "a.parquet")
    error = UserError(f"there is no file {tmp_path}/per_user/a.parquet")
    assert load.without_folders(error) == "there is no file per_user/a.parquet"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"test": {"train": [1]}}, r"record 2 of .* \(BPR\) is damaged: its scores \(test under 'train'\)"),
        ({"valid": {"recall@20": "high"}}, r"its scores \(valid\) are not numbers"),
        ({"curve": [3]}, "an entry of its curve"),
    ],
)
def test_damaged_records_are_named(tmp_path, damage, sentence):
    path = write(tmp_path / "runs.jsonl", run(), replace(run(seed=2), **damage))
    with pytest.raises(UserError, match=sentence):
        load.read([path])


def test_a_score_that_is_not_a_number_is_damage(tmp_path):
    path = write(tmp_path / "runs.jsonl", run())
    path.write_text(path.read_text().replace(f'"recall@20": {run().test["train"]["recall@20"]}', '"recall@20": NaN'))
    with pytest.raises(UserError, match=r"is damaged: its scores \(test under 'train'\) are not numbers"):
        load.read([path])


def test_no_finished_run_and_missing_datasets_are_reported(tmp_path):
    path = write(tmp_path / "runs.jsonl", replace(run(), status="failed", error="x"))
    with pytest.raises(UserError, match=r"no finished run in .*runs.jsonl \(1 failed\)"):
        load.read([path])
    with pytest.raises(UserError, match="no runs on 'e' in these records: there are some on d"):
        load.read([write(path, run())]).of(["e"])
