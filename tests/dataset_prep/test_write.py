"""The writer writes everything or nothing, replaces nothing else, and stays within its folder."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset_prep.write as write
from dataset_prep.__main__ import main
from dataset_prep.tables import Interactions, Prepared
from dataset_prep.tokens import check_name, clean_text, file_stem, id_fault, without_folders
from recbole_mambarec.errors import UserError

from .raw import content


def small(name="small", **changes) -> Prepared:
    table = Interactions(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32))
    return Prepared(name, ["u", "v"], ["a", "b"], table, **changes)


@pytest.mark.parametrize("name", ["", "..", ".", ".hidden", "a/b", "../up", "a b", "a\n", "é", "a\\b", "/abs"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be used"):
        write.write_dataset(small(name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.text(max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_accepted_name_is_one_plain_part_of_a_path(name):
    try:
        check_name(name)
    except UserError:
        return
    from pathlib import PurePosixPath, PureWindowsPath

    assert PurePosixPath(name).parts == (name,) == PureWindowsPath(name).parts and name not in ("..", ".")


def test_existing_folder_that_is_not_ours_is_left_alone(tmp_path):
    target = tmp_path / "small"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="left alone"):
        write.write_dataset(small(), tmp_path)
    (target / "dataset.json").write_text('{"format": "something else"}')
    with pytest.raises(UserError, match="left alone"):
        write.write_dataset(small(), tmp_path)
    assert (target / "thesis.txt").read_text() == "years of work"


def test_notes_beside_a_dataset_are_carried_over(tmp_path):
    folder, _, _ = write.write_dataset(small(), tmp_path)
    (folder / "notes.txt").write_text("mine")
    (folder / "more").mkdir()
    (folder / "more" / "deep.txt").write_text("too")
    changed = small(item_columns={"title:token_seq": ["x", "y"]})
    assert write.write_dataset(changed, tmp_path)[2]
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "more" / "deep.txt").read_text() == "too"
    assert "title" in (folder / "small.item").read_text()


def test_an_interruption_leaves_the_old_dataset_intact(tmp_path, monkeypatch):
    write.write_dataset(small(), tmp_path)
    before = content(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write.write_dataset(small(item_columns={"title:token_seq": ["x", "y"]}), tmp_path)
    assert content(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["small"]


def test_no_space_gives_one_sentence(tmp_path, monkeypatch):
    from .raw import write_mmrec

    source = write_mmrec(tmp_path / "raw")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        main(["mmrec", str(source), "--name", "small", "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").iterdir()) == []


def test_faulty_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="item ids are not unique"):
        prepared = small()
        prepared.item_ids = ["a", "a"]
        write.write_dataset(prepared, tmp_path)
    with pytest.raises(UserError, match="does not fit 2 items"):
        write.write_dataset(small(modalities={"text": np.zeros((3, 2), np.float32)}), tmp_path)
    with pytest.raises(UserError, match=r"modality name 'a\.b'"):
        write.write_dataset(small(modalities={"a.b": np.zeros((2, 2), np.float32)}), tmp_path)


def test_numbers_keep_their_value_and_stay_short(tmp_path):
    prepared = small()
    prepared.interactions.rating = np.array([4.1, 5, 0.5], np.float32)
    prepared.interactions.timestamp = np.array([1300000000.0, 1.5e9, 1.6e9])
    folder, card, _ = write.write_dataset(prepared, tmp_path)
    rows = [line.split("\t")[2:] for line in (folder / "small.inter").read_text().splitlines()]
    assert rows == [
        ["rating:float", "timestamp:float"],
        ["4.1", "1300000000"],
        ["5.0", "1500000000"],
        ["0.5", "1600000000"],
    ]
    assert card["benchmark_filename"] is None


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_accepted_ids_and_cleaned_texts_survive_the_file(text):
    import csv
    import io

    import pandas as pd

    cells = [(clean_text(text), False)]
    if id_fault(text) is None:
        cells.append((text, True))
    for cell, is_id in cells:
        file = io.StringIO(f"a\tb\n{cell}\tx\n".encode().decode("utf-8"))
        # as RecBole reads it
        frame = pd.read_csv(file, delimiter="\t", dtype=str, engine="python", quoting=csv.QUOTE_MINIMAL)
        assert frame.shape == (1, 2) and frame["b"][0] == "x"
        if is_id:
            assert frame["a"][0] == text


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_file_stems_are_plain_and_differ(one, other):
    if id_fault(one) or id_fault(other):
        return
    stem = file_stem(one)
    assert "/" not in stem and "\\" not in stem and not stem.startswith(".") and stem.isascii()
    assert (stem == file_stem(other)) == (one == other)


def test_the_card_names_no_folder():
    words = ["amazon", "--reviews", "/home/me/r.json", "--out", "/data/x", "--plot=/tmp/p.png", "--name", "b"]
    words += ["--text-encoder", "sentence-transformers:/models/mini", "--meta=../m.json"]
    command = without_folders(words)
    expected = "python -m dataset_prep amazon --reviews r.json --name b --text-encoder sentence-transformers:mini"
    assert command == f"{expected} --meta=m.json"


def test_card_is_json_with_the_agreed_keys(tmp_path):
    folder, card, _ = write.write_dataset(small(modalities={"text": np.ones((2, 3), np.float32)}), tmp_path)
    assert json.loads((folder / "dataset.json").read_text()) == card
    assert card["format"] == "recbole_mambarec.dataset/1"
    assert card["modalities"]["text"]["shape"] == [2, 3]
    assert card["modalities"]["text"]["sha256"] == card["files"]["small.text.npy"]["sha256"]
