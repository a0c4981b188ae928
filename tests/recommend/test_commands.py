"""The commands recommend, similar and export, as a user types them."""

import csv
import json
import shutil

import numpy as np
import pytest

from recbole_mambarec import Recommender
from recbole_mambarec.recommend import cli as export_cli
from recbole_mambarec_command.command import COMMANDS
from recbole_mambarec_command.command_line import run_main
from recbole_mambarec_serving import cli, writing

pytest.importorskip("safetensors", reason="bundles need the extra [serve]")
pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the extra [serve]")


def done(capsys, function, *options) -> tuple[int, str, str]:
    """(exit status, output, messages) of a command."""
    with pytest.raises(SystemExit) as end:
        run_main(lambda: function([str(option) for option in options]))
    return end.value.code, *capsys.readouterr()


def test_they_are_commands():
    targets = {COMMANDS[name].target for name in ("recommend", "similar", "export")}
    assert targets == {f"{cli.__name__}:recommend", f"{cli.__name__}:similar", f"{export_cli.__name__}:export"}


def rows_of(path):
    """(user, rank, item, score, title) of a file of recommendations."""
    if path.suffix == ".parquet":
        return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as stream:
            return [(u, int(r), i, float(s), t or None) for u, r, i, s, t in list(csv.reader(stream))[1:]]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        (line["user_id"], rank, each["item_id"], each["score"], each["title"])
        for line in lines
        for rank, each in enumerate(line["items"], 1)
    ]


@pytest.mark.parametrize("ending", writing.ENDINGS)
@pytest.mark.parametrize("source", ["bundle", "checkpoint"])
def test_a_file_has_the_lists_of_all_users(trained, bundles, tmp_path, capsys, monkeypatch, ending, source):
    rec = Recommender.load(bundles["MambaRec"])
    monkeypatch.setattr("recbole_mambarec_serving.recommender.BLOCK_VALUES", 7 * len(rec))  # several blocks
    model, out = (bundles if source == "bundle" else trained.files)["MambaRec"], tmp_path / "out" / f"recs{ending}"
    status, _, messages = done(
        capsys, cli.recommend, "--model-file", model, "--all", "--k", 4, "--out", out, "--exclude-seen", "train"
    )
    assert status == 0 and messages.splitlines()[-1] == f"60 users in {out}"
    wanted = [
        (user, rank, r.item, r.score, r.title)
        for user, found in rec.recommend(rec.users.tokens.tolist(), 4, exclude_seen="train")
        for rank, r in enumerate(found, 1)
    ]
    found = rows_of(out)
    assert [row[:3] + row[4:] for row in found] == [row[:3] + row[4:] for row in wanted]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in wanted], rel=1e-4)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    "text", ["u1\nu3\n", "\ufeffuser_id\nu1\nu3", "n,user_id\n1,u1\n2,u3\n", "user_id:token\tn\nu1\t1\nu3\t2"]
)
def test_users_and_items_of_files(bundles, tmp_path, capsys, text):
    (tmp_path / "users.txt").write_text(text, encoding="utf-8")
    (tmp_path / "items.txt").write_text("i1\ni2\ni3\n", encoding="utf-8")
    options = ["--model-file", bundles["BPR"], "--users", tmp_path / "users.txt", "--k", 2]
    status, out, _ = done(capsys, cli.recommend, *options, "--among", tmp_path / "items.txt", "--exclude-seen", "none")
    lines = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [line[:2] for line in lines] == [["u1", "1"], ["u1", "2"], ["u3", "1"], ["u3", "2"]]
    assert {line[2] for line in lines} <= {"i1", "i2", "i3"}


def test_a_new_user_and_similar_items(bundles, tmp_path, capsys):
    rec = Recommender.load(bundles["MambaRec"])
    status, out, _ = done(capsys, cli.recommend, "--model-file", bundles["MambaRec"], "--items", "i1,i5", "--k", 3)
    assert status == 0
    assert [line.split("\t")[2] for line in out.splitlines()] == [r.item for r in rec.recommend_for(["i1", "i5"], 3)]
    model = ["--model-file", bundles["MambaRec"], "--by", "image", "--k", 2]
    status, out, _ = done(capsys, cli.similar, *model, "--item", "i1")
    assert [line.split("\t")[2] for line in out.splitlines()] == [r.item for r in rec.similar_items("i1", 2, "image")]
    status, _, _ = done(capsys, cli.similar, *model, "--all", "--out", tmp_path / "similar.csv")
    found = rows_of(tmp_path / "similar.csv")
    assert status == 0 and len(found) == 2 * len(rec)
    assert [row[2] for row in found if row[0] == "i1"] == [r.item for r in rec.similar_items("i1", 2, "image")]


BAD = [
    (["--users", "FILE"], "names user 'nobody' and 1 more, of whom the model knows nothing"),
    (["--user", "nobody"], "user 'nobody' is not in the data that the model was trained on"),
    (["--all", "--k", "49"], "k must be a whole number from 1 to 48"),
    (["--all", "--out", "recs.txt"], "ends in none of .parquet, .csv, .jsonl"),
    (["--all", "--exclude-seen", "most"], "exclude_seen must be"),
    (["--users", "missing.txt"], "there is no file missing.txt"),
    (["--users", "EMPTY"], "names no user: write one id per line"),
    (["--users", "TWO"], "has several columns and no heading user_id"),
    (["--users", "NOPARQUET"], "is not a readable Parquet file"),
    ([], "choose with one of --user, --users, --all and --items"),
    (["--all", "--user", "u1"], "choose with one of"),
    (["--items", "i1", "--out", "x.csv"], "--out and --approximate are for known users"),
    (["--all", "--approximate"], "no index for approximate search of BPR is here"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_bad_input_is_one_sentence_and_no_file(bundles, tmp_path, monkeypatch, capsys, options, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("u1\nnobody\nnowhere\n", encoding="utf-8")
    (tmp_path / "EMPTY").write_text("user_id\n", encoding="utf-8")
    (tmp_path / "TWO").write_text("u1,1\nu2,2\n", encoding="utf-8")
    (tmp_path / "no.parquet").write_text("no", encoding="utf-8")
    options = ["no.parquet" if option == "NOPARQUET" else option for option in options]
    before = sorted(tmp_path.iterdir())
    out = [] if "--out" in options or "--items" in options else ["--out", "recs.csv"]
    status, _, messages = done(capsys, cli.recommend, "--model-file", bundles["BPR"], *options, *out)
    (line,) = messages.splitlines()
    assert status == 2 and line.startswith("error: ") and sentence in line
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupt_leaves_the_old_file(bundles, tmp_path, monkeypatch, capsys):
    out = tmp_path / "recs.parquet"
    out.write_text("old", encoding="utf-8")
    monkeypatch.setattr("recbole_mambarec_serving.recommender.BLOCK_VALUES", 1)
    written = writing._Tables.write

    def stop(self, ranked):
        written(self, ranked)
        if ranked.users[0] == "u2":
            raise KeyboardInterrupt

    monkeypatch.setattr(writing._Tables, "write", stop)
    status, _, messages = done(capsys, cli.recommend, "--model-file", bundles["BPR"], "--all", "--k", 2, "--out", out)
    assert status == 130 and "interrupted" in messages
    assert out.read_text(encoding="utf-8") == "old" and [path.name for path in tmp_path.iterdir()] == [out.name]


def test_export_of_arrays(trained, tmp_path, capsys):
    status, _, messages = done(
        capsys, export_cli.export, "--model-file", trained.files["BPR"], "--out", tmp_path / "a", "--format", "npy"
    )
    assert status == 0 and messages.splitlines()[-1] == f"written to {tmp_path / 'a'}"
    users, items = (np.load(tmp_path / "a" / f"{name}.npy") for name in ("users", "items"))
    ids = [(tmp_path / "a" / f"{name}_ids.txt").read_text(encoding="utf-8").splitlines() for name in ("user", "item")]
    rec = Recommender.load(trained.files["BPR"])
    for user, found in rec.recommend(ids[0][:5], 3, exclude_seen=False):
        scores = items @ users[ids[0].index(user)]
        assert [r.item for r in found] == [ids[1][place] for place in np.argsort(-scores)[:3]]
    assert json.loads((tmp_path / "a/card.json").read_text(encoding="utf-8"))["metrics"]["valid"]


def test_export_for_onnx(trained, tmp_path, capsys):
    pytest.importorskip("onnx", reason="needs the extra [onnx]")
    options = ["--model-file", trained.files["MambaRec"], "--format", "onnx", "--no-metrics", "--out", tmp_path / "o"]
    assert done(capsys, export_cli.export, *options)[0] == 0
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    session = runtime.InferenceSession(str(tmp_path / "o/model.onnx"), providers=["CPUExecutionProvider"])
    users = np.load(tmp_path / "o/users.npy")
    scores, items = session.run(None, {"users": users, "k": np.array([3], dtype=np.int64)})
    ids = (tmp_path / "o/item_ids.txt").read_text(encoding="utf-8").splitlines()
    rec = Recommender.load(trained.files["MambaRec"])
    for place, (_, found) in enumerate(rec.recommend(rec.users.tokens.tolist(), 3, exclude_seen=False)):
        assert [ids[item] for item in items[place]] == [r.item for r in found]
        assert scores[place] == pytest.approx([r.score for r in found], rel=1e-4)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("EASE", ["--format", "npy"], "EASE does not rank by embeddings of users and items: export it as a bundle"),
        ("BPR", ["--data-path", "nowhere"], "nowhere"),
        ("missing", [], "cannot be opened"),
        ("truncated", [], "damaged or not a checkpoint"),
    ],
)
def test_what_cannot_be_exported(trained, tmp_path, capsys, model, options, sentence):
    file = trained.files.get(model, tmp_path / "file.pth")
    if model == "truncated":
        shutil.copy(trained.files["MambaRec"], file)
        file.write_bytes(file.read_bytes()[:1000])
    out = tmp_path / "out"
    status, _, messages = done(capsys, export_cli.export, "--model-file", file, "--out", out, "--no-metrics", *options)
    assert status == 2 and sentence in messages.splitlines()[-1] and not out.exists()
