"""How RecBole's datasets are read: encodings, byte order marks, files of another kind, ids that do not match."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset

from recbole_mambarec.cli import run_recbole
from recbole_mambarec.data.atomic import Layout, text_encoding
from recbole_mambarec.errors import UserError, run_main

COLUMNS = {
    "inter": ["user_id", "item_id", "rating"],
    "item": ["item_id", "title"],
    "user": ["user_id", "town"],
    "kg": ["head_id", "relation_id", "tail_id"],
    "link": ["item_id", "entity_id"],
}
HEADERS = {
    "inter": ["user_id:token", "item_id:token", "rating:float"],
    "item": ["item_id:token", "title:token_seq"],
    "user": ["user_id:token", "town:token"],
    "kg": ["head_id:token", "relation_id:token", "tail_id:token"],
    "link": ["item_id:token", "entity_id:token"],
}
N_USERS, N_ITEMS, UNSEEN = 12, 15, 3


def rows(kind: str, user=lambda n: f"u{n}", item=lambda n: f"{100 + n}") -> list[list[str]]:
    """The lines of one of the tables; ids of users and items can be written differently."""
    if kind == "inter":
        pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u + i) % 3]
        return [[user(u), item(i), str(1 + (u * i) % 5)] for u, i in pairs]
    if kind == "item":
        return [[item(i), f"Thé vert {i}"] for i in range(N_ITEMS + UNSEEN)]
    if kind == "user":
        return [[user(u), ["Köln", "Århus"][u % 2]] for u in range(N_USERS)]
    if kind == "kg":
        return [[f"e{i}", "même genre", f"e{(i + 1) % N_ITEMS}"] for i in range(N_ITEMS)]
    return [[item(i), f"e{i}"] for i in range(N_ITEMS)]


def write(path: Path, kind: str, encoding: str = "utf-8", separator: str = "\t", end: str = "\n", **ids) -> None:
    lines = [HEADERS[kind], *rows(kind, **ids)]
    path.write_bytes("".join(separator.join(line) + end for line in lines).encode(encoding))


@pytest.fixture
def folder(tmp_path) -> Path:
    """An ordinary RecBole dataset: no arrays, no card."""
    folder = tmp_path / "tea"
    folder.mkdir()
    for kind in HEADERS:
        write(folder / f"tea.{kind}", kind)
    return folder


def load(folder: Path, model: str = "BPR", **settings):
    settings = {"data_path": str(folder.parent), "load_col": COLUMNS, "show_progress": False} | settings
    return create_dataset(Config(model, folder.name, config_dict=settings))


def content(dataset) -> dict:
    """Everything that was read, by field."""
    tokens = {field: list(values) for field, values in dataset.field2id_token.items()}
    tables = {name: getattr(dataset, name) for name in dataset.feat_name_list}
    features = {
        f"{name}.{field}": [list(value) if isinstance(value, np.ndarray) else value for value in table[field]]
        for name, table in tables.items()
        for field in table.columns
    }
    return tokens | features


@pytest.mark.parametrize("kind", ["inter", "item", "user"])
@pytest.mark.parametrize("model", ["BPR", "LightGCN", "FM"])
def test_a_byte_order_mark_changes_nothing(folder, model, kind):
    expected = content(load(folder, model))
    assert len(expected["item_id"]) == N_ITEMS + UNSEEN + 1
    write(folder / f"tea.{kind}", kind, encoding="utf-8-sig")
    assert content(load(folder, model)) == expected
    assert content(load(folder, model, encoding="utf-8")) == expected


@pytest.mark.parametrize("kind", ["kg", "link"])
def test_a_byte_order_mark_in_a_knowledge_graph(folder, kind):
    expected = content(load(folder, "CFKG"))
    write(folder / f"tea.{kind}", kind, encoding="utf-8-sig")
    assert content(load(folder, "CFKG")) == expected


def test_a_byte_order_mark_in_an_additional_table_and_in_parts(folder):
    (folder / "tea.brew").write_text("item_id:token\tminutes:float\n101\t4\n", encoding="utf-8-sig")
    lines = (folder / "tea.inter").read_text().splitlines()
    for part, some in {"a": lines[1:60], "b": lines[60:80], "c": lines[80:]}.items():
        (folder / f"tea.{part}.inter").write_text("\n".join([lines[0], *some]) + "\n", encoding="utf-8-sig")
    columns = COLUMNS | {"brew": ["item_id", "minutes"]}
    dataset = load(folder, additional_feat_suffix="brew", load_col=columns, benchmark_filename="[a,b,c]")
    assert dataset.brew_feat["minutes"].tolist() == [4]
    assert dataset.user_num == N_USERS + 1 and dataset.item_num == N_ITEMS + UNSEEN + 1
    assert dataset.file_size_list == [59, 20, len(lines) - 80]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "UTF8", "utf_8_sig"])
def test_the_configured_encoding_applies_to_all_files(folder, encoding):
    expected = content(load(folder, "CFKG"))
    for kind in HEADERS:
        write(folder / f"tea.{kind}", kind, encoding=encoding)
    assert content(load(folder, "CFKG", encoding=encoding)) == expected


@pytest.mark.parametrize(("end", "separator"), [("\r\n", "\t"), ("\r", "\t"), ("\n", ","), ("\n", "|"), ("\n", "::")])
def test_line_ends_and_separators(folder, end, separator):
    expected = content(load(folder))
    for kind in HEADERS:
        write(folder / f"tea.{kind}", kind, end=end, separator=separator)
    assert content(load(folder, field_separator=separator)) == expected


@pytest.mark.parametrize(("kind", "model"), [("item", "BPR"), ("user", "LightGCN"), ("kg", "CFKG")])
def test_text_in_another_encoding_gives_one_sentence(folder, kind, model):
    write(folder / f"tea.{kind}", kind, encoding="latin-1")
    with pytest.raises(UserError, match=rf"tea\.{kind} is not UTF-8 text \(line 2 holds the byte 0x..\): convert it"):
        load(folder, model)


def test_a_wrong_byte_late_in_a_file_is_found(folder):
    with open(folder / "tea.item", "ab") as stream:
        stream.write("".join(f"{n}\tplain\n" for n in range(1000, 4000)).encode() + b"4000\tcaf\xe9\n")
    with pytest.raises(UserError, match=rf"line {1 + N_ITEMS + UNSEEN + 3000 + 1} holds the byte 0xe9"):
        load(folder)


def test_utf_16_is_named(folder):
    write(folder / "tea.inter", "inter", encoding="utf-16")
    with pytest.raises(UserError, match=r"tea\.inter is text in UTF-16: convert it to UTF-8, or set encoding: utf-16"):
        load(folder)


def test_a_file_that_is_not_loaded_is_not_read(folder):
    (folder / "tea.user").write_bytes(b"\xff\xfe\x00 no table")
    assert load(folder, load_col={"inter": COLUMNS["inter"]}).item_num == N_ITEMS + 1


@pytest.mark.parametrize("kind", ["inter", "item"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "is a Git LFS pointer"),
        (lambda t: b"/annex/objects/MD5E-s1--2.inter\n", "is a git-annex pointer"),
        (lambda t: b"<!doctype html><title>404</title>", "is an HTML page"),
        (gzip.compress, "is gzip-compressed data: unpack it"),
        (lambda t: b"", "is an empty file"),
        (lambda t: b"\x80\x04abc", "is a Python pickle"),
        (lambda t: b"ab\xff\x00cd", "is a binary file, not text"),
        (lambda t: t.replace(b"\t", b";"), "are separated by semicolons: use tabs, or set field_separator: ';'"),
        (lambda t: t.replace(b":token", b"", 1), "of the first line has no type"),
        (lambda t: t.replace(b"item_id:token", b"item_id:text"), "column 'item_id:text' of the first line has no type"),
        (lambda t: t.replace(b"item_id:token", b"item_id:token\titem_id:token"), "has the column 'item_id' twice"),
    ],
)
def test_a_file_of_another_kind_is_named(folder, kind, change, sentence):
    path = folder / f"tea.{kind}"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(path) in str(caught.value) and sentence in str(caught.value)


def test_mmrecs_layout_is_recognised(folder):
    (folder / "tea.inter").write_text("userID\titemID\tx_label\n0\t1\t0\n")
    with pytest.raises(UserError, match="python -m dataset_prep mmrec"):
        load(folder)


def test_lines_that_are_joined_by_quotation_marks(folder, caplog):
    expected = load(folder)
    path = folder / "tea.item"
    text = path.read_text()
    path.write_text(text.replace("\tThé vert 4\n", '\t"Thé vert 4"\n'))
    assert load(folder).item_num == expected.item_num and not caplog.text
    path.write_text(text.replace("\tThé vert 4\n", '\t"Thé vert 4\n').replace("vert 7\n", 'vert 7"\n'))
    assert load(folder).item_num == expected.item_num - 3
    assert f"reads only {N_ITEMS + UNSEEN - 3} of the {N_ITEMS + UNSEEN} rows of {path}" in caplog.text
    # a prepared dataset has a row per line
    np.save(folder / "tea.image.npy", np.ones((N_ITEMS + UNSEEN, 2), np.float32))
    for model in ("BPR", "LightGCN", "MambaRec"):
        with pytest.raises(UserError, match="remove quotation marks"):
            load(folder, model)


def test_tables_without_rows(folder):
    header = "\t".join(HEADERS["item"])
    (folder / "tea.item").write_text(header)
    with pytest.raises(UserError, match="nothing but a first line without a line end"):
        load(folder)
    (folder / "tea.item").unlink()
    (folder / "tea.inter").write_text("\t".join(HEADERS["inter"]) + "\n")
    with pytest.raises(UserError, match="have no rows"):
        load(folder)


# ---------------------------------------------------------------------------- ids


WRITTEN = [
    pytest.param(lambda n: f"{100 + n}.0", id="float"),
    pytest.param(lambda n: f"00{100 + n}", id="leading zeros"),
    pytest.param(lambda n: f"{100 + n} ", id="blank"),
    pytest.param(lambda n: f"{100 + n:.3e}", id="exponent"),
    pytest.param(lambda n: f"'{100 + n}'", id="quoted"),
]


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(("model", "kind"), [("BPR", "inter"), ("LightGCN", "item"), ("FM", "item"), ("CFKG", "link")])
def test_ids_that_are_written_differently(folder, model, kind, written):
    write(folder / f"tea.{kind}", kind, item=written)
    with pytest.raises(UserError, match=f"{N_ITEMS} of the {N_ITEMS} item ids .* writes the same ids differently"):
        load(folder, model)


def test_ids_of_users_that_are_written_differently(folder):
    write(folder / "tea.user", "user", user=lambda n: f"U{n}")
    with pytest.raises(UserError, match=r"user ids .*tea\.user.* differently, 'U0' for 'u0'"):
        load(folder, "FM")


def test_half_of_the_ids_written_differently(folder):
    write(folder / "tea.inter", "inter", item=lambda n: f"{100 + n}.0" if n % 2 else f"{100 + n}")
    with pytest.raises(UserError, match=f"7 of the {N_ITEMS} item ids"):
        load(folder)


def test_ids_of_another_dataset(folder):
    write(folder / "tea.item", "item", item=lambda n: f"B00{n}XQ")
    with pytest.raises(UserError, match=r"only 0 of the 15 item ids .* e\.g\. '101' here, 'B00\d+XQ' there"):
        load(folder)


def test_a_part_that_writes_its_ids_differently(folder):
    for part, written in {"train": "{}", "valid": "{}", "test": "{}.0"}.items():
        write(folder / f"tea.{part}.inter", "inter", item=lambda n, w=written: w.format(100 + n))
    with pytest.raises(UserError, match="item ids of the part 'test' are not in the part 'train'"):
        load(folder, load_col={"inter": COLUMNS["inter"]}, benchmark_filename=["train", "valid", "test"])


def test_items_in_a_single_part_are_accepted_as_cold_start(folder):
    for part, first in {"train": 0, "valid": 1000, "test": 2000}.items():
        write(folder / f"tea.{part}.inter", "inter", item=lambda n, first=first: f"{first + n}")
    parts = {"load_col": {"inter": COLUMNS["inter"]}, "benchmark_filename": ["train", "valid", "test"]}
    assert load(folder, **parts).item_num == 3 * N_ITEMS + 1


def test_a_few_unlisted_items_are_left_to_recbole(folder):
    lines = (folder / "tea.item").read_text().splitlines()
    (folder / "tea.item").write_text("\n".join([lines[0], *lines[3:]]) + "\n")
    assert len(load(folder).inter_feat) < len(rows("inter"))


# ---------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"benchmark_filename": ["x", "y", "z"]}, "tea.x.inter is missing"),
        ({"benchmark_filename": ["x", "y"]}, "must name three parts"),
        ({"benchmark_filename": []}, "must name three parts"),
        ({"benchmark_filename": {"x": 1}}, "must be a list of names"),
        ({"benchmark_filename": "a,a,b"}, "has a name twice"),
        ({"load_col": ["user_id", "item_id"]}, "load_col must map kinds of files to columns"),
        ({"unload_col": "rating"}, "unload_col must map"),
        ({"unload_col": {"inter": ["rating"]}}, "cannot be read: load_col"),
        ({"load_col": {"inter": ["user_id"]}}, "tea.inter is read without a column 'item_id'"),
        ({"load_col": {"item": ["item_id"]}}, "leave no column of"),
        (
            {"load_col": {"inter": ["user_id", "item_id"], "item": ["title"]}},
            "tea.item is read without a column 'item_id'",
        ),
        ({"additional_feat_suffix": ["net"]}, "tea.net"),
        ({"encoding": "klingon"}, "encoding 'klingon' is unknown"),
        ({"encoding": 8}, "encoding 8 is unknown"),
        ({"field_separator": 5}, "field_separator must be text"),
        ({"ITEM_ID_FIELD": "asin"}, "is read without a column 'asin'"),
    ],
)
def test_a_configuration_that_fits_no_file_gives_one_sentence(folder, settings, sentence):
    with pytest.raises(UserError) as caught:
        load(folder, **settings)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_knowledge_graph(folder):
    (folder / "tea.kg").unlink()
    with pytest.raises(UserError, match=r"tea\.kg"):
        load(folder, "CFKG")


def test_ids_that_are_numbers(folder):
    for kind in ("inter", "item"):
        path = folder / f"tea.{kind}"
        path.write_text(path.read_text().replace("item_id:token", "item_id:float"))
    with pytest.raises(UserError, match="ids are tokens: write it as item_id:token"):
        load(folder)


def test_a_column_that_no_file_has_is_mentioned(folder, caplog):
    load(folder, load_col=COLUMNS | {"item": ["item_id", "brand"]})
    assert "load_col names the column 'brand'" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--benchmark_filename=[x,y,z]"], "tea.x.inter is missing"),
        (["--load_col=['user_id','item_id']"], "load_col must map"),
        (["--load_col={'inter':['user_id','item_id'],'item':['item_id','title']}"], "tea.item is not UTF-8 text"),
    ],
)
def test_the_command_line_reports_it_in_one_line(folder, monkeypatch, capsys, arguments, sentence):
    write(folder / "tea.item", "item", encoding="latin-1")
    arguments = ["--model=BPR", "--dataset=tea", f"--data_path={folder.parent}", *arguments]
    monkeypatch.setattr("sys.argv", ["run_recbole.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: run_recbole(arguments))
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in line
    assert not list(Path(".").glob("saved/*.pth"))


def test_the_layout_of_a_configuration():
    assert Layout.of({}) == Layout()
    named = {"USER_ID_FIELD": "u", "ITEM_ID_FIELD": "i", "RATING_FIELD": "r", "TIME_FIELD": "t"}
    assert Layout.of(named | {"field_separator": "\\t", "encoding": "Latin1"}) == Layout(
        "\t", "iso8859-1", "u", "i", "r", "t"
    )
    for name in (None, "utf-8", "UTF8", "utf_8", "U8", "utf-8-sig"):
        assert text_encoding(name) == "utf-8-sig"
    for name in ("rot13", "base64", "", "no such"):
        with pytest.raises(UserError, match="is unknown"):
            text_encoding(name)
