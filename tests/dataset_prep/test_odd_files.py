"""Files as users have them (encodings, separators, archives, pointers) are read correctly or refused in a sentence."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dataset_prep.__main__ import main
from dataset_prep.check import check_dataset
from dataset_prep.lines import not_utf8
from recbole_mambarec.errors import UserError

from . import raw

pytest.importorskip("polars")

HEADER = ["user_id", "item_id", "rating", "timestamp"]
ROWS = [(f"user{u}", f"item{i}", int(r), t) for u, i, r, t in raw.pairs(n_users=9, n_items=8, each=5)]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"


def text(sep=",", end="\n", rows=ROWS, header=HEADER):
    return "".join(sep.join(map(str, row)) + end for row in (header, *rows))


TITLES = "item_id,title\n" + "".join(f"item{n},{raw.text_of(n)}\n" for n in range(8))


def convert(folder, interactions: bytes, name="clicks.csv", items: bytes | None = None, items_name="goods.csv", *more):
    """The written rows of a conversion, as (user, item, rating, seconds), and the titles."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(interactions)
    words = ["csv", "--interactions", str(folder / name), "--name", "tiny", "--out", str(folder / "out")]
    if items is not None:
        (folder / items_name).write_bytes(items)
        words += ["--items", str(folder / items_name)]
    assert main([*words, "--k-core", "1", "--split", "none", *more]) == 0
    out = folder / "out" / "tiny"
    assert check_dataset(out)[1] == []
    lines = [line.split("\t") for line in (out / "tiny.inter").read_text(encoding="utf-8").splitlines()[1:]]
    titles = [line.split("\t") for line in (out / "tiny.item").read_text(encoding="utf-8").splitlines()[1:]]
    return sorted((u, i, int(float(r)), int(float(t))) for u, i, r, t in lines), titles


MARK = b"\xef\xbb\xbf"
GOOD = {
    "mark": (MARK + text().encode(), "a.csv"),
    "mark in gzip": (gzip.compress(MARK + text().encode()), "a.csv.gz"),
    "mark and quotes": (MARK + text(rows=[(f'"{u}"', *rest) for u, *rest in ROWS]).encode(), "a.csv"),
    "semicolons": (text(";").encode(), "a.csv"),
    "bars": (text("|").encode(), "a.csv"),
    "tabs in .csv": (text("\t").encode(), "a.csv"),
    "commas in .tsv": (text().encode(), "a.tsv"),
    "CRLF": (text(end="\r\n").encode(), "a.csv"),
    "blank lines": (text(end="\n\n").encode(), "a.csv"),
    "gzip under a plain name": (gzip.compress(text().encode()), "a.csv"),
    "plain under a gzip name": (text().encode(), "a.csv.gz"),
    "no last line end": (text().rstrip("\n").encode(), "a.csv"),
    "twice": ((text() + text().partition("\n")[2]).encode(), "a.csv"),
    "milliseconds": (text(rows=[(*row[:3], row[3] * 1000) for row in ROWS]).encode(), "a.csv"),
    "fractions": (text(rows=[(*row[:3], f"{row[3]}.0") for row in ROWS]).encode(), "a.csv"),
    "types in the header": (
        text("\t", header=["user_id:token", "item_id:token", "rating:float", "timestamp:float"]).encode(),
        "a.inter",
    ),
    "JSON lines with a mark": (
        MARK + "".join(json.dumps(dict(zip(HEADER, row))) + "\n" for row in ROWS).encode(),
        "a.jsonl",
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_files_are_read_correctly(tmp_path, case):
    content, name = GOOD[case]
    got, titles = convert(tmp_path, content, name, MARK + TITLES.encode())
    assert got == sorted(ROWS)
    assert {row[0]: row[1] for row in titles} == {f"item{n}": raw.text_of(n) for n in range(8)}


def test_odd_ids_and_titles_survive(tmp_path):
    rows = [(f'"Smith, {u}"', f'"0{i[4:]} x,y"', r, t) for u, i, r, t in ROWS]
    goods = "item_id,title\n" + "".join(f'"0{n} x,y","Two ""lines""\nof {n}; all"\n' for n in range(8))
    got, titles = convert(tmp_path, text(rows=rows).encode(), "a.csv", goods.encode())
    assert {row[0] for row in got} == {f"Smith, {u}" for u, *_ in ROWS}
    assert [row[:2] for row in titles] == [[f"0{n} x,y", f"Two 'lines' of {n}; all"] for n in range(8)]


def test_leading_zeros_and_long_ids_survive(tmp_path):
    """As in H&M's files: article ids with a leading zero, hexadecimal ids of customers, dates."""
    rows = [(f"2018-09-{1 + n % 28:02d}", f"{7 * n % 90:064x}", f"0{663713000 + n % 9}", 0.05) for n in range(300)]
    clicks = text(rows=rows, header=["t_dat", "customer_id", "article_id", "price"])
    goods = "article_id,prod_name,detail_desc\n" + "".join(f'0{663713000 + n},Top {n},"Soft, warm"\n' for n in range(9))
    (tmp_path / "transactions_train.csv").write_text(clicks)
    (tmp_path / "articles.csv").write_text(goods)
    words = ["--interactions", str(tmp_path / "transactions_train.csv"), "--items", str(tmp_path / "articles.csv")]
    main(["csv", *words, "--name", "hm", "--out", str(tmp_path / "out"), "--k-core", "1", "--split", "none"])
    lines = [line.split("\t") for line in (tmp_path / "out" / "hm" / "hm.inter").read_text().splitlines()]
    assert lines[0] == ["user_id:token", "item_id:token", "timestamp:float"]
    assert {(u, i) for u, i, _ in lines[1:]} == {row[1:3] for row in rows}
    items = [line.split("\t") for line in (tmp_path / "out" / "hm" / "hm.item").read_text().splitlines()[1:]]
    assert items == [[f"0{663713000 + n}", f"Top {n}", f"Top {n} Soft, warm"] for n in range(9)]


def test_microlens(tmp_path):
    """Pairs with times in milliseconds, items numbered from 1, and arrays in the order of these numbers."""
    rows = [(u[4:], int(i[4:]) + 5, t * 1000 + 42) for u, i, _, t in ROWS]
    (tmp_path / "pairs.csv").write_text(text(rows=rows, header=["user", "item", "timestamp"]))
    words = ["csv", "--interactions", str(tmp_path / "pairs.csv"), "--name", "ml", "--out", str(tmp_path / "out")]
    main([*words, "--k-core", "1", "--split", "leave-one-out"])
    np.save(tmp_path / "covers.npy", np.arange(24.0, dtype=np.float32).reshape(12, 2))
    folder = tmp_path / "out" / "ml"
    words = ["features", str(folder), "--modality", "image", "--array", str(tmp_path / "covers.npy")]
    with pytest.raises(UserError, match="--first-id"):
        main(words)
    assert main([*words, "--first-id", "1"]) == 0
    items = [int(line.split("\t")[0]) for line in (folder / "ml.item").read_text().splitlines()[1:]]
    assert items != sorted(items)
    np.testing.assert_array_equal(np.load(folder / "ml.image.npy")[:, 0], [2.0 * (item - 1) for item in items])


def archive(names):
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in names:
            made.writestr(name, text())
    return stream.getvalue()


def changed(column, value):
    rows = [tuple(value if n == column else cell for n, cell in enumerate(row)) for row in ROWS]
    return text(rows=rows).encode()


BAD = {
    "empty": (b"", "a.csv holds no rows"),
    "header only": (text(rows=()).encode(), "a.csv holds no rows"),
    "zip": (archive(["a.csv"]), "a zip archive: unpack it"),
    "workbook": (archive(["xl/workbook.xml"]), "an Excel workbook"),
    "pointer": (POINTER, "git lfs pull"),
    "page": (b"<html><body>no</body></html>", "an HTML page"),
    "UTF-16": (text().encode("utf-16"), "text in UTF-16: convert it to UTF-8"),
    "UTF-16 without mark": (text().encode("utf-16-le"), "text in UTF-16: convert it to UTF-8"),
    "latin-1": (text().replace("user1", "us\xe9r1").encode("latin1"), r"not UTF-8 text \(byte .* in line .* is 0xe9\)"),
    "latin-1 header": (text().replace("rating", "not\xe9").encode("latin1"), "in line 1, is 0xe9"),
    "carriage returns": (text(end="\r").encode(), "carriage return alone"),
    "no header": (text(header=("u", "i", "5", "7")).encode(), "if that is a row of data, insert a line with the names"),
    "names twice": (text(header=("user_id", "item_id", "item_id", "time")).encode(), "does not name each column once"),
    "negative times": (changed(3, -5), "absurd timestamp"),
    "other dates": (changed(3, "09/20/2018"), "no timestamp"),
    "ratings as words": (changed(2, "good"), "no rating"),
    "ratings beyond all measure": (changed(2, "1e40"), "no rating"),
    "tabs in ids": (changed(0, "a\tb"), "id with a tab"),
    "zero bytes": (b"\0" * 500, "zero bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_faulty_interactions_give_one_sentence(tmp_path, case):
    content, sentence = BAD[case]
    with pytest.raises(UserError, match=sentence) as caught:
        convert(tmp_path, content, "a.csv")
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "tiny").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", json.dumps([dict(zip(HEADER, row)) for row in ROWS]).encode(), "one JSON array.*orient='records'"),
        ("a.json", json.dumps([dict(zip(HEADER, row)) for row in ROWS], indent=1).encode(), "one JSON array"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"nonsense\n", "no JSON in its first lines"),
        ("a.parquet", POINTER, "not a whole Parquet file: it is a Git LFS pointer"),
        ("a.parquet", gzip.compress(b"PAR1", mtime=0), "it is gzip-compressed data"),
        ("a.xlsx", b"PK", "unknown kind of table"),
    ],
)
def test_faulty_files_of_other_kinds_give_one_sentence(tmp_path, name, content, sentence):
    with pytest.raises(UserError, match=sentence):
        convert(tmp_path, content, name)


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        (TITLES.replace("wooden", "w\xf6\xf6den").encode("latin1"), "goods.csv is not UTF-8 text"),
        (TITLES.encode("utf-16"), "goods.csv is not a text file: it is text in UTF-16"),
        (POINTER, "git lfs pull"),
        (b"item_id,title\n", "goods.csv holds no rows"),
    ],
)
def test_faulty_items_give_one_sentence(tmp_path, items, sentence):
    assert b"wooden" in TITLES.encode()
    with pytest.raises(UserError, match=sentence):
        convert(tmp_path, text().encode(), "a.csv", items)


def test_position_of_what_is_not_utf8(tmp_path):
    path = tmp_path / "f"
    for packed in (False, True):
        content = "gr\xfcn\n".encode() * 7 + b"ab\n" + b"x\xff\n"
        path.write_bytes(gzip.compress(content) if packed else content)
        assert f"(byte {content.index(0xFF) + 1}, in line 9, is 0xff)" in str(not_utf8(path))
    path.write_bytes("gr\xfcn".encode() + b"\xc3")  # cut within a character
    assert "in line 1, is 0xc3" in str(not_utf8(path))
    path.write_bytes("gr\xfcn".encode())
    assert not_utf8(path) is None


ARRAYS = {
    "two arrays": (lambda p: np.savez(p.with_suffix(".npz"), a=np.ones((8, 2)), b=np.ones(3)), ".npz", "2 arrays"),
    "pointer": (lambda p: p.with_suffix(".npy").write_bytes(POINTER), ".npy", "git lfs pull"),
    "pointer as .pt": (lambda p: p.with_suffix(".pt").write_bytes(POINTER), ".pt", "git lfs pull"),
    "page": (lambda p: p.with_suffix(".npy").write_bytes(b"<html></html>"), ".npy", "an HTML page"),
    "gzip": (lambda p: p.with_suffix(".npy").write_bytes(gzip.compress(b"x")), ".npy", "gunzip"),
    "table": (lambda p: p.with_suffix(".csv").write_text("1,2\n"), ".csv", "read_csv"),
    "Parquet": (lambda p: p.with_suffix(".parquet").write_bytes(b"PAR1"), ".parquet", "read_parquet"),
    "text as .b": (lambda p: p.with_suffix(".b").write_bytes(POINTER), ".b", "git lfs pull"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_other_kinds(tmp_path, case):
    make, ending, sentence = ARRAYS[case]
    convert(tmp_path, text().encode())
    make(tmp_path / "a")
    option = "--image-features" if ending == ".b" else "--array"
    before = raw.content(tmp_path / "out")
    with pytest.raises(UserError, match=sentence) as caught:
        main(["features", str(tmp_path / "out" / "tiny"), "--modality", "image", option, str(tmp_path / f"a{ending}")])
    assert "\n" not in str(caught.value) and raw.content(tmp_path / "out") == before


def test_archive_of_one_array_is_read(tmp_path):
    convert(tmp_path, text().encode())
    np.savez(tmp_path / "a.npz", rows=np.arange(16.0).reshape(8, 2))
    assert (
        main(["features", str(tmp_path / "out/tiny"), "--modality", "image", "--array", str(tmp_path / "a.npz")]) == 0
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out/tiny/tiny.image.npy"), np.arange(16.0).reshape(8, 2))


def test_exit_status_of_the_command_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(text().encode("utf-16"))
    words = ["csv", "--interactions", str(tmp_path / "a.csv"), "--name", "tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "dataset_prep", *words],
        cwd=raw.REPOSITORY,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr == "error: a.csv is not a text file: it is text in UTF-16: convert it to UTF-8\n"
