import logging

import numpy as np

from recbole_mambarec.data.cache import ArrayCache, content_key


def counting(value):
    calls = []

    def build():
        calls.append(1)
        return {"x": np.array([value])}

    return build, calls


def test_arrays_are_computed_once_per_key(tmp_path):
    cache = ArrayCache(tmp_path)
    build, calls = counting(1)
    for _ in range(2):
        assert cache.get("thing", {"k": 1}, build)["x"] == [1]
    assert len(calls) == 1
    cache.get("thing", {"k": 2}, build)
    cache.get("other", {"k": 1}, build)
    assert len(calls) == 3


def test_a_damaged_entry_is_built_again_with_a_warning(tmp_path, caplog):
    cache = ArrayCache(tmp_path)
    build, calls = counting(1)
    cache.get("thing", {}, build)
    (entry,) = tmp_path.glob("thing-*.npz")
    entry.write_bytes(entry.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert cache.get("thing", {}, build)["x"] == [1]
    assert len(calls) == 2 and "unreadable" in caplog.text
    assert cache.get("thing", {}, build)["x"] == [1] and len(calls) == 2


def test_a_folder_that_cannot_be_written_gives_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert ArrayCache(tmp_path / "file" / "cache").get("thing", {}, counting(1)[0])["x"] == [1]
    assert "could not be kept" in caplog.text


def test_without_a_folder_nothing_is_kept():
    build, calls = counting(1)
    for _ in range(2):
        ArrayCache(None).get("thing", {}, build)
    assert len(calls) == 2


def test_the_content_key_depends_on_values_shape_and_dtype():
    base = np.arange(6, dtype=np.float32)
    variants = [base, base + 1, base.reshape(2, 3), base.astype(np.float64), base[::-1]]
    assert len({content_key(v) for v in variants}) == len(variants)
    assert content_key(base) == content_key(base.copy())
