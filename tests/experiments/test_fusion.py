"""A fusion of finished runs: its metrics, its record, its file, and what cannot be fused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer

from recbole_mambarec.compat.checkpoints import TRUST_VARIABLE
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import fuse_cli, run, store, users
from recbole_mambarec.experiments.fusion import fuse
from recbole_mambarec.experiments.fusion_parts import Part, choose, common_seeds
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.significance import over_users
from recbole_mambarec.report import load
from recbole_mambarec.report.cli import main as report
from recbole_mambarec.scoring.restore import restore
from recbole_mambarec.testing.planted import QUICK, write_planted

pytest.importorskip("polars")  # results per user are kept by default

MODELS = ("BPR", "EASE", "ItemKNNCBF", "MambaRec")
MASKS = store.MASKS
ONLY_OURS = {"knn_k"}


def trained(root, model, seed=999, runs="runs.jsonl", data="planted", label=None, **overrides):
    """Train for two epochs; records in ``root/runs``, checkpoint in ``root/saved``."""
    values = {k: v for k, v in QUICK.items() if k not in ONLY_OURS or model in ("ItemKNNCBF", "MambaRec")}
    values |= {"data_path": str(root), "checkpoint_dir": str(root / "saved"), "epochs": 2, "state": "ERROR"}
    values |= {"topk": [3, 5], "valid_metric": "Recall@5", "protocol": "multimodal"}
    record = run.execute(resolve(model, data, seed, values | overrides, label=label), root / runs)
    assert record.is_finished, record.error
    return record


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a dataset and a run of each model, of BPR with two seeds."""
    root = tmp_path_factory.mktemp("made")
    write_planted(root)
    for model in MODELS:
        trained(root, model)
    trained(root, "BPR", seed=1000)
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of it; RecBole's checkpoints are trusted."""
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    return Path(shutil.copytree(made, tmp_path / "root"))


def parts_of(root, *names, seed=None):
    return choose(store.read(root / "runs.jsonl"), names, "planted", root / "saved", seed)


def fused(root, *names, **options):
    return fuse(parts_of(root, *names), runs=root / "runs.jsonl", data_path=root, progress=False, **options)


# ------------------------------------------------------------------------------------------------------------
# what it computes


def pairs(root, part):
    lines = (root / "planted" / f"planted.{part}.inter").read_text().splitlines()[1:]
    return [tuple(line.split("\t")) for line in lines]


def by_hand(root, runs, weights, part, masked):
    """Recall and NDCG at 3 and 5 from dense scores, the splits as they are in the files, and plain loops."""
    first = runs[0].scorer
    total = 0.0
    for one, weight in zip(runs, weights):
        dense = one.scorer.scores(np.arange(len(first.users))).double().numpy()
        rows = [one.scorer.users.tokens.tolist().index(token) for token in first.users.tokens]
        columns = [one.scorer.items.tokens.tolist().index(token) for token in first.items.tokens]
        dense = dense[np.ix_(rows, columns)]
        total = total + weight * (dense - dense.mean(1, keepdims=True)) / dense.std(1, keepdims=True)
    user_of, item_of = first.users.tokens.tolist().index, first.items.tokens.tolist().index
    for name in masked:
        for user, item in pairs(root, name):
            total[user_of(user), item_of(item)] = -np.inf
    wanted = {}
    for user, item in pairs(root, part):
        wanted.setdefault(user_of(user), set()).add(item_of(item))
    found = {}
    for k in (3, 5):
        recall, ndcg = [], []
        for user, items in wanted.items():
            hits = [item in items for item in np.argsort(-total[user], kind="stable")[:k]]
            recall.append(sum(hits) / len(items))
            best = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(items))))
            ndcg.append(sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits)) / best)
        found |= {f"recall@{k}": np.mean(recall), f"ndcg@{k}": np.mean(ndcg)}
    return found


def test_metrics_are_those_of_dense_scores(root):
    names = ("MambaRec", "BPR", "EASE")
    result = fused(root, *names, metric="NDCG@5")
    weights = [part["weight"] for part in result.record.fusion["parts"]]
    runs = [restore(part.checkpoint, root) for part in parts_of(root, *names)]
    assert sum(weight > 0 for weight in weights) > 1
    assert result.record.valid == pytest.approx(by_hand(root, runs, weights, "valid", ["train"]), abs=6e-5)
    for mask in MASKS:
        expected = by_hand(root, runs, weights, "test", mask.split("+"))
        assert result.record.test[mask] == pytest.approx(expected, abs=6e-7)
    # the best part is one of the weightings that were tried
    assert result.whole.valid["ndcg@5"] >= max(part.valid["ndcg@5"] for part in result.parts) - 1e-4


@pytest.mark.parametrize("normalisation", ["zscore", "ranks", "raw"])
@pytest.mark.parametrize("number", [0, 1])
def test_one_weight_gives_exactly_the_scores_of_that_run(root, number, normalisation):
    names = ("BPR", "MambaRec")
    weights = [float(n == number) for n in range(2)]
    result = fused(root, *names, weights=weights, normalisation=normalisation)
    (alone,) = [part.record for part in parts_of(root, *names) if part.record.model == names[number]]
    assert (result.record.valid, result.record.test) == (alone.valid, alone.test)
    frames = [users.read(root / record.per_user) for record in (result.record, alone)]
    assert frames[0].sort("user").equals(frames[1].sort("user").select(frames[0].columns))


def test_a_ranking_of_new_items_alone(root):
    records = [trained(root, model, new_items=0.2, rank_items="new", runs="new.jsonl") for model in ("BPR", "MambaRec")]
    parts = [Part(checkpoint_of(root, record).checkpoint, record) for record in records]
    alone = fuse(parts, runs=root / "a.jsonl", out=root / "a.pth", weights=[0, 1], data_path=root, progress=False)
    assert (alone.record.valid, alone.record.test) == (records[1].valid, records[1].test)
    of_all = Part(parts_of(root, "BPR", "EASE")[0].checkpoint)
    refused(root, [parts[0], of_all], "one of them ranks new items alone")
    both = fuse(parts, runs=root / "b.jsonl", out=root / "b.pth", data_path=root, progress=False)
    assert both.record.valid["recall@5"] >= max(record.valid["recall@5"] for record in records) - 1e-4


def test_the_parts_alone_are_evaluated_as_their_runs_were(root):
    result = fused(root, *MODELS)
    for found, part in zip(result.parts, parts_of(root, *MODELS)):
        assert (found.label, found.valid) == (part.record.label, part.record.valid)
    # without records, their test scores are computed
    checkpoints = [Part(part.checkpoint) for part in parts_of(root, "BPR", "EASE", "MambaRec")]
    again = fuse(checkpoints, runs=root / "other.jsonl", data_path=root, progress=False)
    for found, part in zip(again.parts, parts_of(root, "BPR", "EASE", "MambaRec")):
        assert (found.valid, found.test) == (part.record.valid, part.record.test)


def test_the_test_split_has_no_influence_on_the_weights(root):
    checkpoints = [Part(part.checkpoint) for part in parts_of(root, "BPR", "EASE", "MambaRec")]
    first = fuse(checkpoints, runs=root / "first.jsonl", out=root / "first.pth", data_path=root, progress=False)
    had = {pair for part in ("train", "valid", "test") for pair in pairs(root, part)}
    others = [next((user, f"i{n}") for n in range(48) if (user, f"i{n}") not in had) for user, _ in pairs(root, "test")]
    lines = "".join(f"{user}\t{item}\n" for user, item in others)
    (root / "planted" / "planted.test.inter").write_text("user_id:token\titem_id:token\n" + lines)
    second = fuse(checkpoints, runs=root / "second.jsonl", out=root / "second.pth", data_path=root, progress=False)
    assert [part.weight for part in first.parts] == [part.weight for part in second.parts]
    assert first.record.valid == second.record.valid
    assert first.record.test != second.record.test


# ------------------------------------------------------------------------------------------------------------
# what it leaves behind


def test_the_record_is_like_that_of_a_run(root):
    result = fused(root, "BPR", "MambaRec", metric="NDCG@5")
    record = store.read(root / "runs.jsonl")[-1]
    assert record == result.record and record.kind == "fusion" and record.label == "Fusion: BPR + MambaRec"
    assert {r.kind for r in store.read(root / "runs.jsonl")[:-1]} == {"run"}
    assert "fusion" not in json.loads((root / "runs.jsonl").read_text().splitlines()[0])
    parts = [part.record for part in parts_of(root, "BPR", "MambaRec")]
    named = record.fusion["parts"]
    assert [(p["label"], p["seed"], p["key"]) for p in named] == [(p.label, p.seed, p.key) for p in parts]
    assert record.data_hash == parts[0].data_hash and record.per_user == f"per_user/{record.key}.parquet"
    frame = users.read(root / record.per_user)
    assert frame["train+valid:recall@5"].mean() == pytest.approx(record.test["train+valid"]["recall@5"], abs=1e-6)
    rows = {row.label: row for row in load.read([root / "runs.jsonl"]).comparison()}
    assert rows["Fusion: BPR + MambaRec"].test("train", "recall@5") == [record.test["train"]["recall@5"]]
    compared = [replace(r, seed=0) for r in (record, parts[1])]
    assert over_users(compared, root, "train", "recall@5").pairs == len(frame)


def test_the_report_says_what_a_fusion_is(root, capsys):
    fused(root, "BPR", "MambaRec", weights=[1, 3])
    report([str(root / "runs.jsonl"), f"--page={root / 'page.md'}", "--dataset=planted"])
    page = (root / "page.md").read_text()
    assert page.count("Fusion: BPR + MambaRec on planted is a fusion of runs, no model") == 1
    assert "BPR 1.00 and MambaRec 3.00 (given)" in page
    assert "recbole_mambarec fuse --models=BPR,MambaRec" in page and "--weights=1,3" in page


def test_the_file_is_loaded_like_a_model_and_needs_no_trust(root, monkeypatch):
    result = fused(root, "BPR", "EASE", "MambaRec", metric="NDCG@5")
    monkeypatch.delenv(TRUST_VARIABLE)
    for part in parts_of(root, "BPR", "EASE", "MambaRec"):
        part.checkpoint.unlink()
    whole = restore(result.file, root)
    assert whole.model is None and whole.scorer.name == "Fusion"
    rows = whole.scorer.users.positions(["u7", "u3"])
    scores = whole.scorer.scores(rows)
    assert scores.shape == (2, len(whole.scorer.items))
    seen = whole.splits.seen("train+valid")
    held = {(u, i) for u, i in [*pairs(root, "train"), *pairs(root, "valid")] if u in ("u7", "u3")}
    found = {(("u7", "u3")[r], whole.scorer.items.tokens[c]) for r, c in zip(*seen[rows].nonzero())}
    assert found == held and whole.splits.seen("none").nnz == 0
    # the data lie where they were when the runs were made
    config, model, _, train, _, test = load_data_and_model(str(result.file))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    tested = trainer.evaluate(test, load_best_model=False)
    assert tested == pytest.approx({k: round(v, 4) for k, v in result.record.test["train+valid"].items()}, abs=1e-9)
    interaction = test._dataset.inter_feat[:9]
    one_by_one = model.predict(interaction)
    ids = interaction[config["USER_ID_FIELD"]].numpy() - 1, interaction[config["ITEM_ID_FIELD"]].numpy() - 1
    torch.testing.assert_close(one_by_one, model.scorer.scores(ids[0])[range(9), ids[1]])


def test_only_parts_with_a_weight_are_in_the_file(root):
    result = fused(root, "EASE", "MambaRec", weights=[0, 1])
    assert [part["config"]["model"] for part in torch.load(result.file)["parts"]] == ["MambaRec"]


def test_fusions_of_several_seeds_are_one_row(root):
    trained(root, "MambaRec", seed=1000)
    for seed in (999, 1000):
        fuse(parts_of(root, "BPR", "MambaRec", seed=seed), runs=root / "runs.jsonl", data_path=root, progress=False)
    (row,) = [row for row in load.read([root / "runs.jsonl"]).comparison() if row.model == "Fusion"]
    assert row.seeds == [999, 1000]


# ------------------------------------------------------------------------------------------------------------
# the command


def test_the_command(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert fuse_cli.main(["--models=BPR,MambaRec", "--runs=runs.jsonl", "--seeds=999", "--out=mine/fused.pth"]) == 0
    shown = capsys.readouterr().out
    assert "BPR, seed 999" in shown and "gain over" in shown and "written: mine/fused.pth" in shown
    assert Path("mine/fused.pth").is_file() and store.read("runs.jsonl")[-1].kind == "fusion"
    # of several seeds, the best on validation
    best = max((r for r in store.read("runs.jsonl") if r.model == "BPR"), key=lambda r: r.valid["recall@5"])
    assert parts_of(root, "BPR", "EASE")[0].record.key == best.key
    files = [str(part.checkpoint) for part in parts_of(root, "EASE", "ItemKNNCBF")]
    fuse_cli.main(["--checkpoints", *files, "--runs=others.jsonl", "--normalisation=ranks", "--weights=1,2"])
    assert store.read("others.jsonl")[0].config["weights"] == [1, 2]


def state(root):
    return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "name either recorded runs with --models=A,B or checkpoint files"),
        ("--models=BPR,EASE --checkpoints a.pth", "name either recorded runs"),
        ("--checkpoints a.pth b.pth --seeds=1", "have no effect on --checkpoints"),
        ("--models=BPR", "at least two models, got --models=BPR"),
        ("--models=BPR,BPR", "cannot be fused with itself"),
        ("--models=BPR,PGL", "no run of 'PGL' on 'planted' in these records: they have BPR, EASE"),
        ("--models=BPR,EASE --dataset=baby", r"no finished runs on 'baby' in these records \(datasets: planted\)"),
        ("--models=BPR,EASE --seeds=7", "no run of 'BPR' on 'planted' with seed 7"),
        ("--models=BPR,EASE --seeds=x", "--seeds=x is not understood"),
        ("--models=BPR,EASE --checkpoint_dir=elsewhere", "checkpoint of BPR, seed .*, is missing: there is no file"),
        ("--models=BPR,EASE --weights=0,0", "all weights are zero"),
        ("--models=BPR,EASE --weights=1", "2 models to fuse, and 1 weights"),
        ("--models=BPR,EASE --weights=a,b", "--weights=a,b is not understood"),
        (
            "--models=BPR,EASE --weights=1,2 --metric=Recall@3",
            "metric=Recall@3 has no effect on weights that are given",
        ),
        ("--models=BPR,EASE --weights=1,2 --search=greedy", "search=greedy has no effect on weights that are given"),
        ("--models=BPR,EASE --out=runs.jsonl/f.pth", "f.pth cannot be written"),
        ("--models=BPR,EASE --metric=AUC", "weights cannot be found by AUC"),
        ("--models=BPR,EASE --out=saved", "saved exists: delete it, or name another file with --out"),
        ("--models=BPR,EASE --seeds=each --out=x.pth --runs=many.jsonl", "--out names one file"),
        ("--checkpoints runs.jsonl saved", "there is no checkpoint saved"),
        ("--checkpoints runs.jsonl many.jsonl", "runs.jsonl is damaged or not a checkpoint"),
        ("--checkpoints BPR BPR", "is named twice"),
        ("--checkpoints BPR copy.pth", "two of the checkpoints are of the same run"),
        ("--checkpoints BPR", "a fusion needs at least two runs, got 1"),
        ("--models=BPR,EASE --data_path=nowhere", "dataset 'planted' not found|no data files of 'planted'"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(root, monkeypatch, arguments, sentence):
    monkeypatch.chdir(root)
    bpr = parts_of(root, "BPR", "EASE")[0].checkpoint.relative_to(root)
    shutil.copy(bpr, "copy.pth")
    records = store.read("runs.jsonl")
    for record in [*records, *(replace(r, seed=1000, key=r.key[::-1]) for r in records if r.model == "EASE")]:
        store.append("many.jsonl", record)
    for record in records:
        if record.model == "EASE":
            shutil.copy(f"saved/EASE-{record.key[:16]}.pth", f"saved/EASE-{record.key[::-1][:16]}.pth")
    given = [str(bpr) if word == "BPR" else word for word in arguments.split()]
    before = state(root)
    with pytest.raises(UserError, match=sentence):
        fuse_cli.main([*(["--runs=runs.jsonl"] if "--runs" not in arguments else []), *given])
    assert state(root) == before


def test_seeds_in_common_are_those_of_the_runs_that_are_chosen(root):
    """A model's name stands for the runs that are labelled so, if there are any."""
    records = [r for r in store.read(root / "runs.jsonl") if r.is_finished]
    bpr, ease = (next(r for r in records if r.label == name) for name in ("BPR", "EASE"))
    seed = bpr.seed + 1
    other = [replace(bpr, seed=seed, key="b"), replace(ease, seed=seed, key="e", label="EASE (paper)")]
    assert common_seeds([bpr, ease, *other], ["BPR", "EASE"], "planted") == [bpr.seed]
    assert common_seeds([bpr, *other], ["BPR", "EASE"], "planted") == [seed]


def refused(root, parts, sentence, runs="new.jsonl", **options):
    before = state(root)
    with pytest.raises(UserError, match=sentence):
        fuse(parts, runs=root / runs, data_path=root, progress=False, **options)
    assert state(root) == before


def checkpoint_of(root, record):
    return Part(root / "saved" / f"{record.model}-{record.key[:16]}.pth")


def test_runs_that_do_not_belong_together(root):
    bpr = Part(parts_of(root, "BPR", "EASE")[0].checkpoint)
    write_planted(root, "other")
    refused(root, [bpr, checkpoint_of(root, trained(root, "BPR", data="other"))], "of different datasets")
    repeated = trained(root, "BPR", repeatable=True, label="repeatable")
    refused(root, [bpr, checkpoint_of(root, repeated)], r"different masks \(train\+valid and none\)")
    halves = {"benchmark_filename": None, "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "mode": "full"}}
    shutil.copytree(root / "planted", root / "drawn")
    for file in (root / "drawn").iterdir():
        file.rename(file.with_name(file.name.replace("planted", "drawn")))
    joined = "".join(f"{u}\t{i}\n" for part in ("train", "valid", "test") for u, i in pairs(root, part))
    (root / "drawn" / "drawn.inter").write_text("user_id:token\titem_id:token\n" + joined)
    for part in ("train", "valid", "test"):
        (root / "drawn" / f"drawn.{part}.inter").unlink()
    drawn = [trained(root, "BPR", seed=seed, data="drawn", runs="d.jsonl", **halves) for seed in (1, 2)]
    refused(root, [checkpoint_of(root, r) for r in drawn], "their train splits differ, such as those")
    fewer = trained(root, "BPR", seed=1, data="drawn", runs="d.jsonl", item_inter_num_interval="[12,inf)", **halves)
    refused(root, [checkpoint_of(root, r) for r in (drawn[0], fewer)], "they know different items")
    unvalidated = trained(root, "BPR", seed=1, data="drawn", runs="d.jsonl", **halves)
    file = checkpoint_of(root, unvalidated).checkpoint
    content = torch.load(file, weights_only=False)
    content["config"]["eval_args"]["split"] = {"RS": [0.8, 0.0, 0.2]}
    torch.save(content, file)
    refused(root, [checkpoint_of(root, unvalidated), bpr], "no validation split")


def test_data_that_have_changed_since(root):
    parts = parts_of(root, "EASE", "MambaRec")
    features = root / "planted" / "planted.text.npy"
    np.save(features, np.load(features) * 2)
    refused(root, parts, "the data of EASE, seed 999, have changed since it was run")
    files = [Part(part.checkpoint) for part in parts[::-1]]
    refused(root, files, "MambaRec on planted. have changed since it was trained")


def test_a_checkpoint_of_another_run_than_the_recorded_one(root):
    ease, bpr = parts_of(root, "EASE", "BPR")
    mixed = Part(bpr.checkpoint, replace(bpr.record, valid={"recall@5": 0.9}))
    refused(root, [ease, mixed], "does not give the recorded validation scores .recall@5")


def test_a_fusion_is_made_once_and_of_models_alone(root):
    result = fused(root, "EASE", "MambaRec")
    refused(root, parts_of(root, "EASE", "MambaRec"), "exists: delete it", "runs.jsonl")
    refused(root, parts_of(root, "EASE", "MambaRec"), "already recorded", "runs.jsonl", out=root / "x.pth")
    refused(root, [Part(result.file), parts_of(root, "EASE", "BPR")[0]], "is a fusion itself")


def test_nothing_to_choose_weights_by(root, monkeypatch):
    monkeypatch.setattr("recbole_mambarec.experiments.fusion_search.Candidates.value", lambda self, weights: 0.0)
    refused(root, parts_of(root, "EASE", "MambaRec"), "none of the runs finds an item of the validation split")


def test_pickles_have_to_be_trusted(root, monkeypatch):
    monkeypatch.delenv(TRUST_VARIABLE)
    monkeypatch.setattr("recbole_mambarec.compat.checkpoints._written", {})
    refused(root, parts_of(root, "BPR", "MambaRec"), f"set {TRUST_VARIABLE}=1")
