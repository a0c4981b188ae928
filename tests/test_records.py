"""Records of several files become one, and results per user come back from ranks and data alone."""

import json
from pathlib import Path

import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import run, store, users
from recbole_mambarec.testing.planted import write_planted
from tests.experiments.test_run import planned
from tools import records

MASK = {"missing_modalities": 0.5}
# keys that have no effect on the model by which the data are read
NEW = {"new_items": 0.3, "rank_items": "new", "cold_scale": 1, "lr_decay_rate": 0.9}


@pytest.fixture(scope="module")
def made(tmp_path_factory, request):
    """A folder with the dataset, and two files of runs: three runs, and one of them again."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = write_planted(folder)
        usual = {"epochs": 2, "topk": [3, 9], "valid_metric": "Recall@9"}
        for name, runs in {"a": [{}, MASK, NEW], "b": [{}]}.items():
            for settings in runs:
                made = run.execute(planned(data, "VBPR", **usual, **settings), folder / name / "runs.jsonl")
                assert made.is_finished
    return folder


@pytest.fixture
def results(made, tmp_path):
    """Results to which both files were added."""
    results = tmp_path / "results"
    results.mkdir()
    assert len(records.add(results / "mine.jsonl", [made / "a/runs.jsonl", made / "b/runs.jsonl"])) == 3
    return results


def test_results_per_user_come_back_from_ranks(made, results):
    before = {path.name: users.read(path) for path in (results / "per_user").iterdir()}
    for path in (results / "per_user").iterdir():
        path.unlink()
    assert records.restore(results, str(made)) == len(before) == 3
    for name, frame in before.items():
        assert users.read(results / "per_user" / name).equals(frame)
    assert records.restore(results, str(made)) == 0


def test_ranks_do_not_hold_the_split(results):
    found = records.kept(results / "ranks")
    assert {name.split()[1] for name in found} == {"train", "train+valid"} and len(found) == 6
    assert all(ranks.ndim == 1 and ranks.max() <= 9 for ranks in found.values())


def test_a_run_that_is_added_again_takes_its_place(made, results):
    file = results / "mine.jsonl"
    lines = file.read_text().splitlines()
    values = json.loads(lines[0])
    lines[0] = json.dumps(values | {"seconds": 1e6, "unknown": 1})
    lines[1] += " "
    file.write_text("\n".join(lines) + "\n")
    (again,) = records.add(file, [made / "b/runs.jsonl"])
    after = file.read_text().splitlines()
    assert json.loads(after[0]) == again.to_json() and again.seconds != 1e6
    assert after[1:] == lines[1:]


def test_ranks_stay_without_results_per_user(made, results):
    before = records.kept(results / "ranks")
    for path in (results / "per_user").iterdir():
        path.unlink()
    records.add(results / "mine.jsonl", [made / "b/runs.jsonl"])
    after = records.kept(results / "ranks")
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    file = results / "mine.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:1]))
    records.keep(file, store.read(file))
    assert len(records.kept(results / "ranks")) == 2


def test_other_data_or_ranks_are_refused(made, results):
    record = store.read(results / "mine.jsonl")[0]
    ranks = {mask: records.kept(results / "ranks")[f"{record.key} {mask}"] for mask in record.test}
    with pytest.raises(UserError, match="test interactions, and the data"):
        records.frame_of(record, {mask: found[1:] for mask, found in ranks.items()}, str(made))
    with pytest.raises(UserError, match="add the run again"):
        records.frame_of(record, {mask: 0 * found for mask, found in ranks.items()}, str(made))
    other = write_planted(Path.cwd() / "other", seed=5)
    with pytest.raises(UserError, match="is not the data of VBPR"):
        records.frame_of(record, ranks, str(other.parent))


def test_the_command(made, results, monkeypatch, capsys):
    monkeypatch.setattr(records, "RESULTS", results)
    assert records.main(["restore", "--data_path", str(made)]) == 0
    assert "of 0 runs" in capsys.readouterr().out
    assert records.main(["add", str(results / "mine.jsonl"), str(made / "b/runs.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("VBPR on planted, seed")
    assert records.main(["add", str(results / "mine.jsonl"), "nowhere.jsonl"]) == 2
    assert "there is no file of runs nowhere.jsonl" in capsys.readouterr().err
