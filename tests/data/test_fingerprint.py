"""A fingerprint changes with the content of the files, and with nothing else."""

import os

import pytest

from recbole_mambarec.data.fingerprint import code_hash, data_hash


@pytest.fixture
def folder(tmp_path):
    for name, content in {"d.inter": "a", "d.item": "b", "d.words.emb": "c", "d.json": "d", "e.inter": "e"}.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_files_with_an_additional_suffix_count_if_they_are_read(folder):
    without, with_vectors = data_hash(folder, "d"), data_hash(folder, "d", ("words.emb",))
    (folder / "d.words.emb").write_text("other")
    assert data_hash(folder, "d") == without
    assert data_hash(folder, "d", ("words.emb",)) != with_vectors


def test_other_files_do_not_count(folder):
    before = data_hash(folder, "d")
    (folder / "d.json").write_text("other")
    (folder / "e.inter").write_text("other")
    assert data_hash(folder, "d") == before


@pytest.mark.parametrize("how", ["written into", "put in its place"])
def test_a_changed_file_of_the_same_size_and_time_is_noticed(folder, how):
    """As after a copy that keeps size and time."""
    path, before = folder / "d.inter", data_hash(folder, "d")
    times = path.stat()
    target = path if how == "written into" else folder / "new"
    target.write_text("x")
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(target, path)
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert data_hash(folder, "d") != before


def test_the_code_has_a_fingerprint():
    assert len(code_hash()) == 64
