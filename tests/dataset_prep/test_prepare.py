"""Raw files to a dataset, end to end: values, byte-identical repetition, resuming, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest

from dataset_prep.__main__ import main
from dataset_prep.check import check_dataset
from recbole_mambarec.errors import UserError
from tests.helpers import posix

from . import raw

pl = pytest.importorskip("polars")

from dataset_prep.factorise import spill  # noqa: E402
from dataset_prep.options import Options  # noqa: E402
from dataset_prep.prepare import prepare  # noqa: E402
from dataset_prep.readers.amazon import AmazonReviews  # noqa: E402
from dataset_prep.readers.items import Catalogue, Item  # noqa: E402
from dataset_prep.readers.tabular import InteractionTable  # noqa: E402


def amazon(folder, version="2014", *more, **changes):
    reviews, meta = raw.write_category(folder / "raw", version, **changes)
    words = ["amazon", "--reviews", str(reviews), "--meta", str(meta), "--name", "tiny"]
    return [*words, "--out", str(folder / "out"), *more]


def lines(path):
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("version", ["2014", "2018", "2023"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_version_end_to_end(tmp_path, capsys, version, packed):
    assert main(amazon(tmp_path, version, packed=packed)) == 0
    folder = tmp_path / "out" / "tiny"
    card, problems = check_dataset(folder)
    assert problems == [] and card["source_format"] == f"Amazon Reviews {version}"
    assert (card["counts"]["users"], card["counts"]["items"], card["counts"]["interactions"]) == (30, 20, 240)
    assert card["counts"]["per_split"] == {"train": 180, "valid": 30, "test": 30}
    # each row is one of the raw ones, with its rating and its time in seconds
    written = [row for part in ("train", "valid", "test") for row in lines(folder / f"tiny.{part}.inter")[1:]]
    fraction = 0.123 if version == "2023" else 0
    expected = sorted((raw.user_id(u), raw.item_id(i), r, t + fraction) for u, i, r, t in raw.pairs())
    assert sorted((u, i, float(r), float(t)) for u, i, r, t in written) == expected
    # items in the order of their ids, every fifth without text
    items = lines(folder / "tiny.item")
    assert items[0] == ["item_id:token", "title:token_seq", "text:token_seq"]
    assert [row[0] for row in items[1:]] == [raw.item_id(n) for n in range(20)]
    without = np.array([row[2] == "" for row in items[1:]])
    assert np.flatnonzero(without).tolist() == [4, 9, 14, 19]
    text = np.load(folder / "tiny.text.npy")
    np.testing.assert_array_equal(np.isnan(text).all(axis=1), without)
    np.testing.assert_allclose(np.linalg.norm(text[~without], axis=1), 1, rtol=1e-5)
    out = capsys.readouterr().out
    assert "4 items are not in meta" in out and "4 (20.0 %)" in out and "4.000 %" not in out
    assert not (tmp_path / "out" / ".stages").exists()


def test_a_2014_category_gives_the_same_bytes_twice(tmp_path):
    """In two processes with different hash seeds, folders and numbers of threads."""
    ids = [raw.item_id(n).encode() for n in range(0, 20, 2)]
    results = []
    for seed, threads in (("1", "1"), ("2", "2")):
        home = tmp_path / seed
        words = amazon(home, "2014")
        features = raw.write_b(home / "raw" / "image.b", ids, np.random.default_rng(0).random((10, 4096)))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "POLARS_MAX_THREADS": threads}
        command = [sys.executable, "-m", "dataset_prep", *words, "--image-features", str(features)]
        subprocess.run(command, cwd=raw.REPOSITORY, env=environment, check=True, capture_output=True)
        results.append(raw.content(home / "out"))
    assert results[0] == results[1]
    assert {name.rpartition("/")[2] for name in results[0]} == {
        "dataset.json",
        "tiny.item",
        "tiny.image.npy",
        "tiny.text.npy",
        "tiny.train.inter",
        "tiny.valid.inter",
        "tiny.test.inter",
    }


def test_steps_are_counted(tmp_path):
    rows = raw.pairs()
    user, item, _, seconds = rows[0]
    rows.append((user, item, 1.0, seconds + 10))  # later: replaces the first
    rows += [(77, 0, 5.0, 1_300_000_000)]  # a user with one interaction
    reviews, meta = raw.write_category(tmp_path / "raw", "2018", rows=rows)
    folder, card, _ = prepare(AmazonReviews(reviews, meta), "tiny", tmp_path / "out", options=Options(split="none"))
    assert card["dropped"] == {"earlier of two of the same user and item": 1, "outside the 5-core": 1}
    assert [(step["step"], step["interactions"]) for step in card["steps"]] == [
        ("242 lines read", 242),
        ("duplicates", 241),
        ("5-core", 240),
    ]
    kept = [row for row in lines(folder / "tiny.inter") if row[:2] == [raw.user_id(user), raw.item_id(item)]]
    assert kept == [[raw.user_id(user), raw.item_id(item), "1.0", str(seconds + 10)]]
    assert card["benchmark_filename"] is None and card["split"] is None


def test_minimum_rating(tmp_path):
    rows = raw.pairs(each=15)
    reviews, meta = raw.write_category(tmp_path / "raw", "2018", rows=rows)
    options = Options(min_rating=3, k_core=1)
    _, card, _ = prepare(AmazonReviews(reviews, meta), "tiny", tmp_path / "out", options=options)
    low = sum(row[2] < 3 for row in rows)
    assert low and card["dropped"]["rated below 3"] == low
    assert card["counts"]["interactions"] == len(rows) - low


@pytest.mark.parametrize("method", ["leave-one-out", "temporal-user", "temporal-global"])
def test_splits_by_time(tmp_path, method):
    assert main(amazon(tmp_path, "2018", "--split", method)) == 0
    folder = tmp_path / "out" / "tiny"
    assert check_dataset(folder)[1] == []
    parts = [lines(folder / f"tiny.{part}.inter")[1:] for part in ("train", "valid", "test")]
    last = {}
    for number, part in enumerate(parts):
        for user, _, _, seconds in part:
            key = "all" if method == "temporal-global" else user
            before = last.get(key, (0, 0.0))
            assert number == before[0] or float(seconds) >= before[1]
            last[key] = (number, max(float(seconds), before[1] if number == before[0] else 0))


def test_without_metadata_there_is_no_text(tmp_path, capsys):
    reviews, _ = raw.write_category(tmp_path / "raw", "2014")
    assert main(["amazon", "--reviews", str(reviews), "--name", "tiny", "--out", str(tmp_path)]) == 0
    assert "so there is no text" in capsys.readouterr().out
    assert check_dataset(tmp_path / "tiny")[0]["modalities"] == {}


def test_forced_version(tmp_path):
    with pytest.raises(UserError, match="240 of 240 lines cannot be used"):
        main(amazon(tmp_path, "2018", "--version", "2023"))
    assert list((tmp_path / "out").rglob("*.inter")) == []


# --- interruption ---------------------------------------------------------------------------------


def test_finished_stages_are_not_repeated(tmp_path, monkeypatch):
    words = amazon(tmp_path, "2018")
    spilled = []
    monkeypatch.setattr("dataset_prep.prepare.spill", lambda *a: (spilled.append(1), spill(*a)))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dataset_prep.prepare.write_dataset", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(words)
    assert spilled == [1] and not (tmp_path / "out" / "tiny").exists()
    assert main(words) == 0 and spilled == [1]
    # after a finished run nothing is left, and other input is other stages
    assert main([*words, "--max-bad", "0.5"]) == 0 and spilled == [1, 1]


@posix
def test_killed_while_reading_leaves_nothing_half_written(tmp_path):
    rows = raw.pairs(n_users=3000, n_items=400, each=20)
    words = amazon(tmp_path, "2014", rows=rows, n_items=400)
    environment = {**os.environ, "PYTHONPATH": str(raw.REPOSITORY)}
    for delay in (0.4, 0.8, 1.2):
        process = subprocess.Popen(
            [sys.executable, "-m", "dataset_prep", *words],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        target = tmp_path / "out" / "tiny"
        assert not target.exists() or check_dataset(target)[1] == []
    assert main(words) == 0
    assert check_dataset(tmp_path / "out" / "tiny")[1] == []


# --- bad input ------------------------------------------------------------------------------------


def broken_review(folder, line, n=1):
    reviews, meta = raw.write_category(folder / "raw", "2018", packed=False)
    with open(reviews, "ab") as stream:
        stream.write(line * n)
    return [
        "amazon",
        "--reviews",
        str(reviews),
        "--meta",
        str(meta),
        "--name",
        "tiny",
        "--out",
        str(folder / "out"),
    ]


def test_a_few_bad_lines_are_reported(tmp_path, capsys):
    assert main(broken_review(tmp_path, b"nonsense\n", 2)) == 0
    assert "reviews.json: not an object: 2" in capsys.readouterr().out


def test_too_many_bad_lines_are_an_error_unless_allowed(tmp_path, capsys):
    words = broken_review(tmp_path, b'{"reviewerID": "A\\t1", "asin": "B1"}\n', 3)
    with pytest.raises(UserError, match=r"3 of 243 lines cannot be used .* --max-bad"):
        main(words)
    assert not (tmp_path / "out" / "tiny").exists()
    assert main([*words, "--max-bad", "0.02"]) == 0


def cut_file(path, n):
    path.write_bytes(path.read_bytes()[:-n])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: cut_file(f / "reviews.json.gz", 50), "ends in the middle of its gzip data"),
        (lambda f: cut_file(f / "meta.json.gz", 50), "ends in the middle of its gzip data"),
        (lambda f: (f / "reviews.json.gz").unlink(), "there is no file"),
        (lambda f: (f / "meta.json.gz").unlink(), "there is no file"),
        (lambda f: (f / "reviews.json.gz").write_bytes(b""), "not a file of Amazon reviews"),
        (lambda f: (f / "meta.json.gz").write_bytes(b"\x89PNG\r\n"), "not a file of Amazon metadata"),
        (
            lambda f: (f / "reviews.json.gz").write_bytes(b'{"reviewerID": "A"}\n' * 9),
            "not a file of Amazon reviews",
        ),
    ],
)
def test_faulty_files_get_one_sentence(tmp_path, spoil, sentence):
    words = amazon(tmp_path, "2018")
    spoil(tmp_path / "raw")
    with pytest.raises(UserError, match=sentence) as caught:
        main(words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "tiny").exists()


def test_no_space_for_a_stage_gives_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")

    words = amazon(tmp_path, "2018")
    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(UserError, match="No space left on device"):
        main(words)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--k-core", "50"], r"nothing is left of 240 interactions after the step '50-core'"),
        (["--min-rating", "9"], r"after the step 'rating'"),
        (["--name", "../up"], "cannot be used"),
        (["--text-encoder", "word2vec"], "unknown text encoder"),
        (["--images", "somewhere"], "--images needs --image-encoder"),
        (["--images", "x", "--image-encoder", "timm:resnet18"], "give --image-weights"),
        (["--image-features", "none.b"], "there is no file none.b"),
    ],
)
def test_options_that_cannot_work(tmp_path, options, sentence):
    words = amazon(tmp_path, "2018")
    with pytest.raises(UserError, match=sentence):
        main([*words, *options])
    assert not (tmp_path / "out" / "tiny").exists() and not (tmp_path / "up").exists()


def test_a_foreign_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    words = amazon(tmp_path, "2018")
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    monkeypatch.setattr("dataset_prep.prepare.spill", lambda *a: pytest.fail("worked before it looked"))
    with pytest.raises(UserError, match="left alone"):
        main(words)


def test_a_missing_extra_gives_one_sentence(monkeypatch, tmp_path):
    words = amazon(tmp_path, "2018", "--text-encoder", "sentence-transformers:mini")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r'pip install "recbole-mambarec\[features\]"'):
        main(words)


def test_command_line_prints_no_traceback(tmp_path):
    words = amazon(tmp_path, "2018", "--k-core", "50")
    done = subprocess.run(
        [sys.executable, "-m", "dataset_prep", *words], cwd=raw.REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: nothing is left") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["amazon"], ["mmrec"], ["csv"], ["features"], ["fetch-images"], ["check"]])
def test_help_is_instant_and_imports_nothing_heavy(command):
    code = f"""
import runpy, sys
sys.argv = ["dataset_prep", *{command!r}, "--help"]
try:
    runpy.run_module("dataset_prep", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "numpy", "pandas", "polars", "recbole_mambarec"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=raw.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m dataset_prep" in done.stdout


@pytest.mark.parametrize("recbole", ["installed", "missing"])
@pytest.mark.parametrize(
    ("encoder", "heavy"), [("none", {"torch", "recbole", "pandas"}), ("tfidf", {"torch", "recbole"})]
)
def test_preparing_a_table_loads_neither_torch_nor_recbole(tmp_path, encoder, heavy, recbole):
    rows = "".join(f"u{user},i{item}\n" for user, item, _, _ in raw.pairs())
    (tmp_path / "t.csv").write_text(f"user,item\n{rows}")
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},{raw.text_of(n)}\n" for n in range(20)))
    words = ["csv", "--interactions", str(tmp_path / "t.csv"), "--items", str(tmp_path / "items.csv")]
    words += ["--text-encoder", encoder]
    code = f"""
import sys
if {recbole!r} == "missing":
    sys.modules["recbole"] = None
from dataset_prep.__main__ import main
assert main([*{words!r}, "--name", "tiny", "--out", {str(tmp_path)!r}]) == 0
loaded = {heavy | {"recbole_mambarec"}!r} & {{name for name in sys.modules if sys.modules[name]}}
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=raw.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert check_dataset(tmp_path / "tiny")[1] == []


def test_a_missing_package_gives_one_sentence(tmp_path):
    raw.write_mmrec(tmp_path / "raw")
    code = f"""
import sys
sys.modules["pandas"] = None
from dataset_prep.__main__ import main
from recbole_mambarec_command.command_line import run_main
run_main(lambda: main(["mmrec", {str(tmp_path / "raw")!r}, "--name", "tiny", "--out", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=raw.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: recbole_mambarec needs the package pandas, which is not installed: pip ")


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables_end_to_end(tmp_path, ending):
    rows = [{"userId": u, "movieId": i, "rating": r, "timestamp": t} for u, i, r, t in raw.pairs()]
    films = [{"movieId": i, "title": f'Film "{i}"', "genres": "Drama|War", "x": raw.text_of(i)} for i in range(20)]
    write = {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}[ending]
    getattr(pl.DataFrame(rows), write)(tmp_path / f"r.{ending}")
    getattr(pl.DataFrame(films), write)(tmp_path / f"m.{ending}")
    words = ["csv", "--interactions", str(tmp_path / f"r.{ending}"), "--items", str(tmp_path / f"m.{ending}")]
    words += ["--name", "films", "--out", str(tmp_path / "out"), "--text-columns", "title,genres,x"]
    assert main(words) == 0
    folder = tmp_path / "out" / "films"
    card, problems = check_dataset(folder)
    assert problems == [] and card["counts"]["interactions"] == 240
    titles = {row[0]: row[1:] for row in lines(folder / "films.item")}
    assert titles["3"] == ["Film '3'", f"Film '3' Drama|War {raw.text_of(3)}"]
    assert card["modalities"]["text"]["missing"] == 0


def test_table_without_times_or_ratings(tmp_path):
    (tmp_path / "t.csv").write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u, i, _, _ in raw.pairs()))
    folder, card, _ = prepare(InteractionTable(tmp_path / "t.csv"), "plain", tmp_path / "out")
    assert card["inter_columns"] == ["user_id", "item_id"] and check_dataset(folder)[1] == []
    with pytest.raises(UserError, match="needs timestamps"):
        prepare(InteractionTable(tmp_path / "t.csv"), "p", tmp_path / "out", options=Options(split="leave-one-out"))


class Visits:
    """A source of a kind that dataset_prep does not know: two batches of visits, and a name for each item."""

    card: ClassVar = {"source_format": "visits"}
    settings: ClassVar = ["visits", 1]

    def __init__(self, folder):
        self.interactions, self.items = folder / "visits.bin", folder / "places.bin"
        for file in (self.interactions, self.items):
            file.write_bytes(b"\0")

    def read_interactions(self, skips):
        rows = raw.pairs()
        skips.lines += len(rows) + 1
        skips.add("no visit")
        for part in (rows[:100], rows[100:]):
            yield pl.DataFrame({"user": [f"u{row[0]}" for row in part], "item": [f"i{row[1]}" for row in part]})

    def read_items(self, item_ids, skips):
        catalogue = Catalogue(item_ids, skips)
        skips.lines += 20
        for n in range(20):
            catalogue.add(Item(f"i{n}", raw.text_of(n)))
        return catalogue


def test_a_source_of_another_kind(tmp_path):
    folder, card, changed = prepare(Visits(tmp_path), "visits", tmp_path / "out", options=Options(split="none"))
    assert changed and check_dataset(folder)[1] == []
    assert card["source_format"] == "visits" and card["dropped"]["visits.bin: no visit"] == 1
    assert [source["name"] for source in card["sources"]] == ["visits.bin", "places.bin"]
    assert {tuple(row) for row in lines(folder / "visits.inter")[1:]} == {
        (f"u{u}", f"i{i}") for u, i, *_ in raw.pairs()
    }
    assert card["modalities"]["text"]["missing"] == 0
    assert not prepare(Visits(tmp_path), "visits", tmp_path / "out", options=Options(split="none")).changed


# --- real data ------------------------------------------------------------------------------------


def test_gift_cards(tmp_path, capsys):
    source = raw.real_data("amazon-gift-cards")
    words = ["amazon", "--reviews", str(source / "Gift_Cards_5.json.gz"), "--k-core", "3", "--name", "gift"]
    words += ["--meta", str(source / "meta_Gift_Cards.json.gz"), "--out", str(tmp_path)]
    assert main(words) == 0
    card, problems = check_dataset(tmp_path / "gift")
    assert problems == []
    counts = card["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (458, 148, 2965)
    assert card["dropped"]["earlier of two of the same user and item"] == 7
    assert card["modalities"]["text"]["missing"] == 0
    assert str(tmp_path) not in json.dumps(card)
    before = raw.content(tmp_path / "gift")
    assert main(words) == 0 and raw.content(tmp_path / "gift") == before
    assert "already there" in capsys.readouterr().out
