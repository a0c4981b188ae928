"""A trained model is evaluated again: as it is, or with other values of keys that do not change the training."""

import json
import shutil
from pathlib import Path

import pytest

from recbole_mambarec.compat.checkpoints import TRUST_VARIABLE
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import evaluate_cli, run, store
from recbole_mambarec.experiments.fusion import fuse
from recbole_mambarec.experiments.fusion_parts import choose
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.reevaluation import AlreadyRecorded, combinations, evaluate, trained_key
from recbole_mambarec.recommend.cli import export
from recbole_mambarec.recommend.export import export as write_bundle
from recbole_mambarec.recommend.recommender import Recommender
from recbole_mambarec.report import load, provenance, tables
from recbole_mambarec.report.cli import main as report
from recbole_mambarec.report.published import Published
from recbole_mambarec.scoring.restore import restore
from recbole_mambarec.testing.planted import QUICK, write_planted

pytest.importorskip("polars")  # results per user are kept by default

NEW = {"new_items": 0.3}


def trained(root, model, **overrides):
    """Train for one epoch, so that all values of the keys in question choose the same one."""
    values = {key: value for key, value in QUICK.items() if key != "knn_k" or model != "BPR"}
    values |= {"data_path": str(root), "checkpoint_dir": str(root / "saved"), "epochs": 1, "state": "ERROR"}
    values |= {"topk": [3, 5], "valid_metric": "Recall@5", "protocol": "multimodal"}
    record = run.execute(resolve(model, "planted", 999, values | overrides), root / "runs.jsonl")
    assert record.is_finished, record.error
    return record


def checkpoint(root, record):
    return root / "saved" / f"{record.model}-{record.key[:16]}.pth"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a dataset and runs without the interactions of some items."""
    root = tmp_path_factory.mktemp("made")
    write_planted(root)
    return root, {model: trained(root, model, **NEW) for model in ("BPR", "FREEDOM", "MultiEASE")}


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of it; RecBole's checkpoints are trusted."""
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    return Path(shutil.copytree(made[0], tmp_path / "root"))


@pytest.fixture
def records(made):
    return made[1]


def again(root, record, changed=None, **options):
    return evaluate(checkpoint(root, record), changed, data_path=root, progress=False, **options)


@pytest.mark.parametrize("model", ["BPR", "FREEDOM", "MultiEASE"])
def test_as_it_was_trained_it_has_the_recorded_scores(root, records, model):
    before = (root / "runs.jsonl").read_text()
    found = again(root, records[model])
    assert found.valid == records[model].valid
    assert found.test == records[model].test
    assert found.record is None
    assert (root / "runs.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ("FREEDOM", {"cold_scale": 1.5}),
        ("FREEDOM", {"cold_items": "content", "cold_scale": 0.5}),
        ("FREEDOM", {"cold_items": "neighbours"}),
        ("FREEDOM", {"rank_items": "new"}),
        ("FREEDOM", {"cold_users": "popularity"}),
        ("MultiEASE", {"cold_scale": 0.0}),
        ("BPR", {"rank_items": "new"}),
    ],
)
def test_other_values_give_what_a_training_with_them_gives(root, records, model, changed):
    found = again(root, records[model], changed)
    expected = trained(root, model, **NEW, **changed)
    assert found.valid == expected.valid
    assert found.test == expected.test
    if changed != {"cold_users": "popularity"}:  # all of these users have interactions
        assert found.test != records[model].test


def test_known_and_new_items_have_scores_of_their_own(root, records):
    found = again(root, records["FREEDOM"], {"cold_scale": 1.5})
    assert set(found.groups) == {"validation", *store.MASKS}
    for part, scores in (("validation", found.valid), *found.test.items()):
        whole, known, new = found.groups[part]
        assert [whole.name, known.name, new.name] == ["all", "known", "new"]
        assert whole.scores["recall@5"] == pytest.approx(scores["recall@5"], abs=6e-5)
        assert 0 < new.users <= whole.users
        assert 0 < known.users <= whole.users
    at_once = again(root, records["FREEDOM"]).groups["validation"]
    assert at_once[2].scores["recall@5"] < found.groups["validation"][2].scores["recall@5"]


def test_its_record_names_the_values_of_the_training(root, records):
    runs, trained_run = root / "runs.jsonl", records["FREEDOM"]
    found = again(root, trained_run, {"cold_scale": 1.5}, runs=runs).record
    assert store.read(runs)[-1] == found
    assert found.kind == "evaluation"
    assert (found.label, found.group, found.seed) == (trained_run.label, trained_run.group, 999)
    assert found.config["cold_scale"] == 1.5
    assert found.config["trained_with"] == {"cold_scale": 0.0}
    assert found.overrides == {**trained_run.overrides, "cold_scale": 1.5}
    assert trained_key(found.model, found.config, found.seed, found.data_hash) == trained_run.key
    # a training with this value is another run, since it may choose another epoch
    assert trained(root, "FREEDOM", **NEW, cold_scale=1.5).key != found.key
    assert (root / found.per_user).is_file()
    before = runs.read_text()
    with pytest.raises(AlreadyRecorded, match="this evaluation is recorded in"):
        again(root, trained_run, {"cold_scale": 1.5}, runs=runs)
    assert again(root, trained_run, {"cold_scale": 0.0}, runs=runs).record is None  # its run has recorded that
    assert runs.read_text() == before


def test_a_training_that_is_not_recorded_there(root, records, tmp_path):
    """The record says how to train the model, though its own record is in another file or nowhere."""
    found = again(root, records["FREEDOM"], {"cold_scale": 1.5}, runs=tmp_path / "other.jsonl").record
    assert (found.label, found.group) == ("FREEDOM", "comparison")
    assert found.overrides["cold_scale"] == 1.5
    overrides = {key: value for key, value in found.overrides.items() if key != "cold_scale"}
    paths = {"data_path": str(root), "checkpoint_dir": str(root / "saved")}
    assert resolve("FREEDOM", "planted", 999, overrides | paths).key == records["FREEDOM"].key


def test_lists_move_with_the_data(root, tmp_path):
    (root / "planted" / "new.txt").write_text("item_id\n" + "".join(f"{item}\n" for item in _items(root)[:9]))
    record = trained(root, "FREEDOM", new_items="new.txt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "planted").rename(elsewhere / "planted")
    found = evaluate(checkpoint(root, record), data_path=elsewhere, progress=False)
    assert found.test == record.test
    (elsewhere / "planted" / "new.txt").unlink()
    with pytest.raises(UserError, match=r"new_items: there is no file .*new.txt, neither here nor in"):
        evaluate(checkpoint(root, record), data_path=elsewhere, progress=False)


def test_a_dataset_with_other_columns(root, records):
    """What says how the files are read comes from the checkpoint, before the folder is looked at."""
    for part in ("train", "valid", "test"):
        file = root / "planted" / f"planted.{part}.inter"
        file.write_text(file.read_text().replace("user_id:token", "who:token"))
    record = trained(root, "FREEDOM", **NEW, USER_ID_FIELD="who")
    found = evaluate(checkpoint(root, record), {"cold_scale": 1.0}, data_path=root, runs=root / "new.jsonl")
    assert found.record.overrides["USER_ID_FIELD"] == "who"


def test_nothing_but_records_is_written(root):
    record = trained(root, "FREEDOM", **NEW, save_dataset=True, save_dataloaders=True)
    before = {path: path.stat().st_mtime_ns for path in (root / "saved").iterdir()}
    again(root, record, {"rank_items": "new"})
    assert {path: path.stat().st_mtime_ns for path in (root / "saved").iterdir()} == before


def test_other_users_than_in_the_training(root):
    """Columns by which users were compared count no more if they are not to be compared."""
    file = root / "planted" / "planted.train.inter"
    first, *pairs = file.read_text().splitlines()
    users = {line.split("\t")[0] for line in pairs}
    file.write_text("\n".join([first, *(line for line in pairs if not line.startswith("u0\t"))]) + "\n")
    lines = ["user_id:token\tage:token", *(f"{user}\t{len(user) % 2}" for user in sorted(users))]
    (root / "planted" / "planted.user").write_text("\n".join(lines) + "\n")
    record = trained(root, "FREEDOM", **NEW, cold_users="features", user_features=["age"], user_neighbours=3)
    found = again(root, record, {"cold_users": "popularity"}, runs=root / "new.jsonl").record
    assert found.config["trained_with"] == {"cold_users": "features", "user_features": ["age"]}
    assert found.config.get("user_features") is None
    with pytest.raises(UserError, match="user_features has no effect with cold_users=popularity"):
        command(root, checkpoint(root, record), "--cold_users=features,popularity", "--user_features=age")
    rec = Recommender.load(checkpoint(root, record), root)
    items = rec.items.tokens[:3].tolist()
    assert len(rec.recommend_for(items, 4)) == 4


def _items(root):
    return [line.split("\t")[0] for line in (root / "planted" / "planted.item").read_text().splitlines()[1:]]


def test_rankings_of_new_items_are_compared_among_each_other(root, records):
    runs = root / "runs.jsonl"
    for model in ("FREEDOM", "MultiEASE"):
        again(root, records[model], {"rank_items": "new"}, runs=runs)
    rows = load.read([runs]).comparison()
    assert {row.dataset for row in rows} == {"planted", "planted, new items alone"}
    chosen, _ = load.chosen_by_validation(rows, "recall@5", smaller=False)
    assert len(chosen) == 3 + 2
    of_all = {"FREEDOM": Published({"recall@5": 0.5}, "a paper")}
    table = tables.scores("t", "c", rows, ["recall@5"], "train", published=lambda dataset: of_all)
    shown = {block.heading: [line[0].text for line in block.rows] for block in table.blocks}
    assert "FREEDOM, published" in shown["planted"]
    assert "FREEDOM, published" not in shown["planted, new items alone"]


def test_a_report_of_it(root, records, tmp_path, monkeypatch):
    runs = root / "runs.jsonl"
    for scale in (0.5, 1.5):
        again(root, records["FREEDOM"], {"cold_scale": scale}, runs=runs)
    monkeypatch.chdir(root)
    rows = load.read(["runs.jsonl"]).comparison()
    names = {row.label for row in rows if row.model == "FREEDOM"}
    assert names == {"FREEDOM (cold_scale=0)", "FREEDOM (cold_scale=0.5)", "FREEDOM (cold_scale=1.5)"}
    commands = dict(provenance.trace(rows).commands).values()
    file = f"saved/{checkpoint(root, records['FREEDOM']).name}"
    both = next(text for text in commands if "--cold_scale=1.5" in text).splitlines()
    assert both[0].startswith("python -m recbole_mambarec compare --models=FREEDOM --dataset=planted --seeds=999, ")
    assert "--new_items=0.3" in both[0]
    assert "cold_scale" not in both[0]
    assert both[1] == f"python -m recbole_mambarec evaluate {file} --cold_scale=1.5 --runs=results/runs.jsonl"
    report(["runs.jsonl", "--variants", "--page=page.md"])
    text = (root / "page.md").read_text()
    assert "on planted: evaluated after the training, which had cold\\_scale=0 and chose the epoch with it." in text


def test_rows_that_differ_in_their_training_alone_say_so(root, records):
    runs = root / "runs.jsonl"
    trained(root, "FREEDOM", **NEW, cold_scale=1.5)
    again(root, records["FREEDOM"], {"cold_scale": 1.5}, runs=runs)
    labels = [row.label for row in load.read([runs]).comparison() if row.model == "FREEDOM"]
    assert len(set(labels)) == 3
    assert any("trained_with={cold_scale: 0.0}" in label for label in labels)


def test_a_fusion_is_of_trainings(root, records):
    again(root, records["FREEDOM"], {"cold_scale": 1.5}, runs=root / "runs.jsonl")
    parts = choose(store.read(root / "runs.jsonl"), ["FREEDOM", "BPR"], "planted", root / "saved")
    assert parts[0].record.key == records["FREEDOM"].key
    options = {"data_path": root, "progress": False}
    made = fuse(parts, runs=root / "runs.jsonl", out=root / "fusion.pth", weights=[1.0, 0.5], **options)
    found = evaluate(root / "fusion.pth", data_path=root, progress=False)
    assert found.test == made.record.test
    with pytest.raises(UserError, match="evaluations of fusions are not recorded"):
        evaluate(root / "fusion.pth", data_path=root, runs=root / "other.jsonl", progress=False)
    changed = {"rank_items": "new"}
    assert restore(root / "fusion.pth", root, changed).trained_with == {"rank_items": "all"}
    with pytest.raises(UserError, match=r"BPR, a part of the fusion .*: cold_scale has no effect on BPR"):
        evaluate(root / "fusion.pth", {"cold_scale": 1.0}, data_path=root, progress=False)
    assert not (root / "other.jsonl").exists()


def test_recommendations_with_other_values(root, records, tmp_path):
    file = checkpoint(root, records["FREEDOM"])
    user = Recommender.load(file, root).users.tokens[0]
    plain, lifted = (
        [(r.item, r.score) for r in Recommender.load(file, root, changed).recommend(user, k=5)]
        for changed in ({}, {"cold_scale": 3.0})
    )
    assert plain != lifted


def test_a_bundle_with_other_values(root, records, tmp_path):
    pytest.importorskip("safetensors")
    file = checkpoint(root, records["FREEDOM"])
    rec = Recommender.load(file, root, {"cold_scale": 3.0})
    user = rec.users.tokens[0]
    lifted = [r.item for r in rec.recommend(user, k=5)]
    bundle = tmp_path / "bundle"
    export(["--model-file", str(file), "--out", str(bundle), "--data-path", str(root), "--cold_scale=3"])
    assert json.loads((bundle / "card.json").read_text())["configuration"]["cold_scale"] == 3
    assert [r.item for r in Recommender.load(bundle).recommend(user, k=5)] == lifted
    with pytest.raises(UserError, match="rank_items says what an evaluation ranks"):
        write_bundle(file, tmp_path / "other", root, changed={"rank_items": "new"})
    card = json.loads((bundle / "card.json").read_text())
    assert card["trained_with"] == {"cold_scale": 0.0}
    assert "Scored with cold_scale: 3; trained with cold_scale: 0.0." in (bundle / "README.md").read_text()
    with pytest.raises(UserError, match="is a bundle, which has the cold_scale that it was exported with"):
        Recommender.load(bundle, changed={"cold_scale": 1.0})


# ------------------------------------------------------------------------------------------------------------
# the command line


def command(root, *arguments):
    return evaluate_cli.main([*map(str, arguments), f"--data_path={root}"], "evaluate")


def test_the_command_tries_each_value(root, records, capsys, caplog):
    command(root, checkpoint(root, records["FREEDOM"]), "--cold_scale=0,1.5", "--cold_items=id,content")
    out = capsys.readouterr().out
    for setting in ("cold_scale: 0, cold_items: id", "cold_scale: 1.5, cold_items: content"):
        assert setting in out
    assert out.count("  new items") == 4 * 3
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(warnings) == len(set(warnings))


def test_the_command_records_what_it_is_asked_to(root, records, capsys):
    file, runs = checkpoint(root, records["FREEDOM"]), root / "more.jsonl"
    command(root, file, "--cold_scale=0.5,1.5", f"--runs={runs}", "--per_user=False")
    found = store.read(runs)
    assert [record.config["cold_scale"] for record in found] == [0.5, 1.5]
    assert not any(record.per_user for record in found)
    assert f"recorded in {runs}" in capsys.readouterr().out


def test_the_command_goes_on_where_it_was_interrupted(root, records, capsys):
    file, runs = checkpoint(root, records["FREEDOM"]), root / "more.jsonl"
    command(root, file, "--cold_scale=0, 0.5", f"--runs={runs}")
    assert "not recorded: it has been evaluated as it was trained" in capsys.readouterr().out
    before = runs.read_text()
    command(root, "--cold_scale=0.5,1.5", file, f"--runs={runs}")
    assert f"cold_scale: 0.5: recorded before in {runs}" in capsys.readouterr().out
    assert runs.read_text().startswith(before)
    assert [record.config["cold_scale"] for record in store.read(runs)] == [0.5, 1.5]


def test_files_and_values_in_any_order(root, records, capsys):
    first, second = (checkpoint(root, records[model]) for model in ("FREEDOM", "MultiEASE"))
    command(root, first, "--cold_scale=0.5", second)
    out = capsys.readouterr().out
    assert "FREEDOM on planted, seed 999" in out
    assert "MultiEASE on planted, seed 999" in out


def test_combinations():
    assert combinations({}) == [{}]
    assert combinations({"a": [1, 2], "b": [3]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("FREEDOM", ["--learning_rate=0.1"], "--learning_rate is not understood: .* can only be given other values of"),
        ("FREEDOM", ["--cold_scale=-1"], "cold_scale must be a number from 0"),
        ("FREEDOM", ["--cold_scale=0.5,-1"], "cold_scale must be a number from 0, got -1"),
        ("FREEDOM", ["--cold_items=content,nobody"], "cold_items must be one of"),
        ("FREEDOM", ["--cold_scale=1,1.0"], "give distinct values"),
        ("FREEDOM", ["--cold_scal=1"], "did you mean --cold_scale"),
        ("FREEDOM", ["nowhere.pth", "--cold_scale=0.5"], "there is no checkpoint nowhere"),
        ("FREEDOM", ["--user_neighbours=5"], "user_neighbours has no effect without cold_users"),
        ("FREEDOM", ["--cold_scale="], "give distinct values"),
        ("FREEDOM", ["--cold_items=nobody"], "cold_items must be one of id, content, neighbours"),
        ("FREEDOM", ["--cold_scale=1", "--cold_scale=2"], "--cold_scale is given more than once"),
        ("FREEDOM", ["--user_features=age"], "user_features has no effect without cold_users"),
        ("MultiEASE", ["--cold_items=content"], "cold_items: MultiEASE, which .* does not support 'content'"),
        ("BPR", ["--cold_scale=1"], "cold_scale has no effect on BPR, which is a model of RecBole's own"),
    ],
)
def test_what_is_refused(root, records, model, arguments, message):
    with pytest.raises(UserError, match=message):
        command(root, checkpoint(root, records[model]), *arguments, f"--runs={root / 'more.jsonl'}")
    assert not (root / "more.jsonl").exists()


def test_a_missing_file_and_a_key_of_the_training(root, records):
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        command(root, root / "nowhere.pth")
    with pytest.raises(UserError, match="knn_k cannot be changed after the training"):
        again(root, records["FREEDOM"], {"knn_k": 3})


def test_new_items_need_to_be_known(root):
    record = trained(root, "FREEDOM")
    with pytest.raises(UserError, match=r"rank_items 'new' ranks .* FREEDOM was trained without that key"):
        again(root, record, {"rank_items": "new"})
    file = checkpoint(root, record)
    with pytest.raises(UserError, match="is named twice: name it once"):
        command(root, file, file)
