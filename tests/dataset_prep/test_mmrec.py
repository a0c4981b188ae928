"""MMRec's and MRLib's layout: what is read, and the message for each fault."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep.__main__ import main
from dataset_prep.check import check_dataset
from dataset_prep.readers.mmrec import read_mmrec
from dataset_prep.split import held_out
from dataset_prep.write import write_dataset
from recbole_mambarec.errors import UserError

from .raw import FUZZ, content, item_id, real_data, user_id, write_mmrec


def prepare(source, out, name="small"):
    return write_dataset(read_mmrec(source, name), out)


def table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_split_rows_and_arrays_are_kept(tmp_path):
    source = write_mmrec(tmp_path / "raw")
    folder, card, changed = prepare(source, tmp_path / "out")
    assert changed and check_dataset(folder) == (card, [])
    raw = pd.read_csv(source / "small.inter", sep="\t", dtype=str)
    for label, part in enumerate(("train", "valid", "test")):
        written = table(folder / f"small.{part}.inter")
        assert list(written.columns) == ["user_id:token", "item_id:token"]
        assert written.to_numpy().tolist() == raw[raw.x_label == str(label)].iloc[:, :2].to_numpy().tolist()
    assert table(folder / "small.item")["item_id:token"].tolist() == [str(n) for n in range(10)]
    assert list(card["modalities"]) == ["image", "text"]
    text = np.load(folder / "small.text.npy")
    assert text.dtype == np.float16
    np.testing.assert_array_equal(text, np.load(source / "text_feat.npy"))
    assert card["counts"]["per_split"] == {"train": 36, "valid": 12, "test": 12}
    assert card["counts"]["density"] == 0.5
    assert str(tmp_path) not in json.dumps(card)


def test_maps_give_raw_ids(tmp_path):
    folder, card, _ = prepare(write_mmrec(tmp_path / "raw", maps=True), tmp_path / "out")
    assert table(folder / "small.item")["item_id:token"].tolist() == [item_id(n) for n in range(10)]
    users = table(folder / "small.train.inter")["user_id:token"]
    assert set(users) == {user_id(n) for n in range(12)}
    assert [source["name"] for source in card["sources"]][1:3] == ["i_id_mapping.csv", "u_id_mapping.csv"]


def test_preparing_twice_gives_the_same_bytes_and_says_so(tmp_path, capsys):
    source = write_mmrec(tmp_path / "raw", maps=True)
    arguments = ["mmrec", str(source), "--name", "small", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    first = content(tmp_path / "out")
    assert "written to" in capsys.readouterr().out
    assert main(arguments) == 0
    assert content(tmp_path / "out") == first
    assert "already there" in capsys.readouterr().out
    main(["mmrec", str(source), "--name", "small", "--out", str(tmp_path / "elsewhere")])
    assert content(tmp_path / "elsewhere") == first


def test_mrlib_layout_with_rating_and_pt(tmp_path):
    import torch

    source = tmp_path / "raw"
    source.mkdir()
    lines = ["user_id,item_id,rating,label"]
    lines += [f"{u},{i},{i % 5 + 0.5},{min(2, i)}" for u in range(4) for i in range(3)]
    (source / "inter.csv").write_text("\n".join(lines) + "\n")
    torch.save(torch.arange(6.0).reshape(3, 2), source / "v_feat.pt")
    folder, card, _ = prepare(source, tmp_path / "out")
    assert card["inter_columns"] == ["user_id", "item_id", "rating"] and list(card["modalities"]) == ["image"]
    np.testing.assert_array_equal(np.load(folder / "small.image.npy"), np.arange(6.0).reshape(3, 2))
    assert table(folder / "small.valid.inter")["rating:float"].tolist() == ["1.5"] * 4


def test_items_without_interactions_are_kept(tmp_path):
    source = write_mmrec(tmp_path / "raw", n_items=10)
    for name in ("image", "text"):
        array = np.load(source / f"{name}_feat.npy")
        np.save(source / f"{name}_feat.npy", np.vstack([array, array[:2]]))
    _, card, _ = prepare(source, tmp_path / "out")
    assert card["counts"]["items"] == 12 and card["counts"]["items_without_interaction"] == 2


def test_a_row_of_nan_means_missing(tmp_path):
    source = write_mmrec(tmp_path / "raw")
    array = np.load(source / "image_feat.npy")
    array[[2, 7]] = np.nan
    np.save(source / "image_feat.npy", array)
    _, card, _ = prepare(source, tmp_path / "out")
    assert card["modalities"]["image"]["missing"] == 2


def test_duplicates_and_leaks_are_counted(tmp_path):
    source = write_mmrec(tmp_path / "raw")
    file = source / "small.inter"
    lines = file.read_text().splitlines()
    test_row = next(line for line in lines if line.endswith("\t2"))
    train_row = next(line for line in lines[1:] if line.endswith("\t0"))
    file.write_text("\n".join([*lines, train_row, test_row[:-1] + "1"]) + "\n")
    with pytest.raises(UserError, match="are in two splits"):
        read_mmrec(source, "small")
    prepared = read_mmrec(source, "small", max_bad=0.05)
    assert prepared.card["dropped"] == {
        "duplicate pair within a split": 1,
        "pair already in an earlier split": 1,
    }
    user, item, _ = map(int, test_row.split("\t"))
    table = prepared.interactions
    assert table.split[(table.users == user) & (table.items == item)].tolist() == [1]
    assert len(table) == 60


def test_users_without_training_item_are_reported(tmp_path, capsys):
    source = write_mmrec(tmp_path / "raw")
    with open(source / "small.inter", "a", encoding="utf-8") as stream:
        stream.write("14\t0\t2\n")
    assert main(["mmrec", str(source), "--name", "small", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "1 users have no training item" in out and "2 user numbers below 15 do not occur" in out


def spoil_table(old, new):
    def spoil(source):
        file = source / "small.inter"
        text = file.read_text()
        assert re.search(old, text)
        file.write_text(re.sub(old, new, text, count=1))

    return spoil


def save_image(change):
    def spoil(source):
        np.save(source / "image_feat.npy", change(np.load(source / "image_feat.npy")))

    return spoil


def set_value(row, column, value):
    def change(array):
        array[row, column] = value
        return array

    return save_image(change)


def cut_array(source):
    file = source / "image_feat.npy"
    file.write_bytes(file.read_bytes()[:-7])


def pickled(source):
    np.save(source / "image_feat.npy", np.array([["a"], [{}]], dtype=object), allow_pickle=True)


FAULTS = {
    "no column x_label": (spoil_table("x_label", "part"), "no column x_label"),
    "label 3": (spoil_table("\t2\n", "\t3\n"), "label 3, expected 0"),
    "negative id": (spoil_table("\n0\t", "\n-1\t"), "line 2: userID is '-1'"),
    "fractional id": (spoil_table("\n0\t", "\n0.5\t"), "expected a whole number"),
    "missing cell": (spoil_table(r"\t0\n", "\n"), "line 2: x_label is"),
    "a cell too many": (spoil_table(r"\t0\n", "\t0\t0\n"), "more cells than its header|is not a table"),
    "too large id": (spoil_table("\n0\t", "\n9999999999\t"), "expected a whole number"),
    "item beyond the arrays": (
        spoil_table(r"\n0\t\d+", "\n0\t10"),
        "names item 10, but the feature files have 10",
    ),
    "empty test": (lambda s: spoil_table("", "")(s) or _relabel(s), "test split .* is empty"),
    "no table": (lambda s: (s / "small.inter").unlink(), "neither a .* nor inter.csv"),
    "two tables": (lambda s: (s / "b.inter").write_text("x"), "several interaction files"),
    "empty table": (lambda s: (s / "small.inter").write_text(""), "is not a table"),
    "header only": (lambda s: (s / "small.inter").write_text("userID\titemID\tx_label\n"), "no rows"),
    "not text": (
        lambda s: (s / "small.inter").write_bytes(b"userID\titemID\tx_label\n\xff\t1\t0\n"),
        "UTF-8",
    ),
    "wrong rows": (save_image(lambda a: a[:-1]), "has 10 rows, but image_feat.npy has 9"),
    "one-dimensional": (save_image(lambda a: a[0]), "expected a 2-D array"),
    "half NaN": (set_value(3, 1, np.nan), "row 3 holds values that are not finite"),
    "infinite": (set_value(4, 0, np.inf), "row 4 holds values that are not finite"),
    "complex": (save_image(lambda a: a.astype(complex)), "expected float16, float32 or float64"),
    "cut array": (cut_array, "not a whole .npy array"),
    "pickled array": (pickled, "not a whole .npy array"),
    "empty array": (lambda s: (s / "image_feat.npy").write_bytes(b""), "not a whole .npy array"),
    "two images": (lambda s: (s / "v_feat.npy").write_bytes(b""), "both give the modality image"),
    "bad pt": (lambda s: (s / "audio_feat.pt").write_bytes(b"nonsense"), "not a file of plain tensors"),
}


def _relabel(source):
    file = source / "small.inter"
    file.write_text(file.read_text().replace("\t2\n", "\t1\n"))


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_gets_one_sentence_and_nothing_is_written(tmp_path, case):
    spoil, sentence = FAULTS[case]
    source = write_mmrec(tmp_path / "raw")
    spoil(source)
    with pytest.raises(UserError, match=sentence) as caught:
        main(["mmrec", str(source), "--name", "small", "--out", str(tmp_path / "out")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace("\t9\n", "\t8\n"), "not each of 0 to 9 once"),
        (lambda text: text.replace(item_id(9), item_id(8)), "have the same raw id"),
        (lambda text: text.replace(item_id(9), ""), "raw id '' of number 9 cannot be used"),
        (lambda text: text.replace(item_id(9), "NA"), "raw id 'NA' of number 9 cannot be used"),
        (lambda text: text.replace(item_id(9) + "\t9\n", ""), "maps 9 ids, but the data has 10"),
    ],
)
def test_faulty_maps(tmp_path, change, sentence):
    source = write_mmrec(tmp_path / "raw", maps=True)
    file = source / "i_id_mapping.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=sentence):
        read_mmrec(source, "small")


def test_pickle_in_pt_runs_nothing(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    source = write_mmrec(tmp_path / "raw")
    (source / "audio_feat.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="plain tensors"):
        read_mmrec(source, "small")
    assert not (tmp_path / "made").exists()


cells = st.one_of(st.integers(-2, 12).map(str), st.text(alphabet='0123.,"\t é', max_size=4))
tables = st.one_of(
    st.binary(max_size=120),
    st.lists(st.lists(cells, min_size=2, max_size=4), max_size=12).map(
        lambda rows: "\n".join(map("\t".join, [["userID", "itemID", "x_label"], *rows])).encode()
    ),
)


@given(tables, st.one_of(st.none(), st.binary(max_size=200), st.integers(0, 400)))
@settings(max_examples=100 * FUZZ, deadline=None)
def test_fuzz_mmrec(tmp_path_factory, table, array):
    """The table is arbitrary bytes; the features are arbitrary bytes or a valid array with one byte changed."""
    source = write_mmrec(tmp_path_factory.getbasetemp() / "fuzz_mmrec")
    (source / "small.inter").write_bytes(table)
    file = source / "image_feat.npy"
    if isinstance(array, bytes):
        file.write_bytes(array)
    elif array is not None:
        whole = bytearray(file.read_bytes())
        whole[array % len(whole)] ^= 0x55
        file.write_bytes(bytes(whole))
    try:
        prepared = read_mmrec(source, "small")
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert len(prepared.interactions) and prepared.interactions.items.max() < len(prepared.item_ids)


@pytest.mark.parametrize(
    ("name", "users", "items", "rows", "parts", "without"),
    [
        ("amazon-baby", 19_445, 7_050, 160_792, [118_551, 20_559, 21_682], 0),
        ("tiktok", 9_308, 6_710, 68_722, [59_541, 3_051, 6_130], 10),
    ],
)
def test_real_data(tmp_path, name, users, items, rows, parts, without):
    folder, card, _ = prepare(real_data(name), tmp_path, name)
    counts = card["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (users, items, rows)
    assert list(counts["per_split"].values()) == parts
    assert counts["users_without_training_item"] == without
    assert check_dataset(folder)[1] == []


def test_our_split_has_the_sizes_of_the_published_one():
    table = read_mmrec(real_data("amazon-baby"), "baby").interactions
    n = np.bincount(table.users)
    validation, test = held_out(n)
    np.testing.assert_array_equal(np.bincount(table.users[table.split == 1], minlength=len(n)), validation)
    np.testing.assert_array_equal(np.bincount(table.users[table.split == 2], minlength=len(n)), test)
