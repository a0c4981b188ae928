import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_mambarec.data.modality import Modality
from recbole_mambarec.data.rows import ItemRows
from recbole_mambarec.errors import UserError


def tokens(*names):
    return np.array(names, dtype=object)


@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=6, max_size=6), st.sampled_from("efd"))
def test_rows_follow_their_tokens_in_any_order(order, kept, dtype):
    matrix = np.array([[n, -n, 2 * n] for n in order], dtype=dtype)
    ids = {f"i{n}": k + 1 for k, n in enumerate(n for n in range(6) if kept[n])}
    aligned = Modality("image", matrix, tokens(*(f"i{n}" for n in order))).align(ids, len(ids) + 1)
    assert aligned.matrix.dtype == np.float32
    assert not aligned.matrix[0].any() and not aligned.present[0]
    for token, item in ids.items():
        assert aligned.matrix[item, 0] == int(token[1:])
    assert aligned.present[1:].all()


def test_a_row_of_nan_is_a_missing_modality_and_is_replaced_by_the_mean():
    matrix = np.array([[1.0, 3.0], [np.nan, np.nan], [3.0, 5.0]], dtype=np.float32)
    aligned = Modality("text", matrix, tokens("a", "b", "c")).align({"[PAD]": 0, "a": 1, "b": 2, "c": 3}, 4)
    assert aligned.present.tolist() == [False, True, False, True]
    assert aligned.matrix[2].tolist() == [2.0, 4.0]
    assert aligned.missing_share == pytest.approx(1 / 3)


def test_float16_is_widened_before_anything_is_computed():
    matrix = np.full((2, 4), 60000, dtype=np.float16)  # its square overflows float16
    matrix[1] = np.nan
    aligned = Modality("image", matrix, tokens("a", "b")).align({"a": 1, "b": 2}, 3)
    assert np.isfinite(aligned.matrix).all()
    assert aligned.matrix[2, 0] == pytest.approx(60000, rel=1e-3)


@pytest.mark.parametrize(
    ("matrix", "ids", "sentence"),
    [
        (np.zeros((2, 3), np.float32), ["a"], "2 rows but the .item file beside it has 1"),
        (np.zeros(3, np.float32), ["a", "b", "c"], r"shape \(3,\)"),
        (np.zeros((1, 3), np.int64), ["a"], "dtype int64"),
        (np.zeros((1, 0), np.float32), ["a"], "width 0"),
    ],
)
def test_wrong_arrays_are_refused(matrix, ids, sentence):
    with pytest.raises(UserError, match=sentence):
        Modality("image", matrix, tokens(*ids))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_partly_broken_row_is_named(bad):
    matrix = np.ones((3, 2), np.float32)
    matrix[2, 1] = bad
    with pytest.raises(UserError, match=r"row 2 \(item 'c'\)"):
        Modality("image", matrix, tokens("a", "b", "c")).align({"a": 1, "b": 2, "c": 3}, 4)


def test_a_value_beyond_float32_is_reported_rather_than_turned_into_infinity():
    with pytest.raises(UserError, match="row 0"):
        Modality("image", np.full((1, 2), 1e300), tokens("a")).align({"a": 1}, 2)


def test_an_item_without_a_row_is_named():
    with pytest.raises(UserError, match=r"1 items .* e\.g. 'z'"):
        Modality("image", np.ones((1, 2), np.float32), tokens("a")).align({"a": 1, "z": 2}, 3)


def test_a_modality_that_no_item_has_is_refused():
    with pytest.raises(UserError, match="leave 'image' out"):
        Modality("image", np.full((1, 2), np.nan, np.float32), tokens("a")).align({"a": 1}, 2)


def test_files_that_are_not_arrays(tmp_path):
    ids = tokens("a", "b")
    with pytest.raises(UserError, match="there is no file"):
        Modality.load("image", tmp_path / "none.npy", ids)
    whole = tmp_path / "whole.npy"
    np.save(whole, np.ones((2, 500), np.float32))
    cut = tmp_path / "cut.npy"
    cut.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(UserError, match="truncated"):
        Modality.load("image", cut, ids)
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(UserError, match=r"not a readable \.npy"):
        Modality.load("image", tmp_path / "text.npy", ids)
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a readable \.npy"):
        Modality.load("image", tmp_path / "objects.npy", ids)


def test_a_matrix_that_stays_on_disk_has_the_same_values(tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, 5)).astype(np.float16)
    matrix[3] = np.nan
    np.save(tmp_path / "x.npy", matrix)
    names = tokens(*"abcdefg")
    ids = {"[PAD]": 0, **{name: k + 1 for k, name in enumerate("gbadc")}}
    stored = Modality.load("image", tmp_path / "x.npy", names)
    loaded, on_disk = stored.align(ids, 6, 6 * 5 * 4), stored.align(ids, 6, 6 * 5 * 4 - 1)
    assert isinstance(loaded.matrix, np.ndarray) and isinstance(on_disk.matrix, ItemRows)
    np.testing.assert_array_equal(on_disk.items[:], loaded.items)
    np.testing.assert_array_equal(on_disk.items[np.array([4, 0])], loaded.items[[4, 0]])
    np.testing.assert_array_equal(on_disk.present, loaded.present)
    assert on_disk.missing_share == loaded.missing_share > 0


def test_a_matrix_on_disk_is_checked_too(tmp_path):
    matrix = np.ones((2, 3), np.float32)
    matrix[1, 0] = np.inf
    with pytest.raises(UserError, match="row 1"):
        Modality("image", matrix, tokens("a", "b")).align({"a": 1, "b": 2}, 3, 0)
    with pytest.raises(UserError, match="leave 'image' out"):
        Modality("image", np.full((1, 2), np.nan, np.float32), tokens("a")).align({"a": 1}, 2, 0)


def test_a_matrix_on_disk_takes_no_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((30_000, 64), np.float16))
    stored = Modality.load("image", tmp_path / "x.npy", np.arange(30_000).astype(str).astype(object))
    ids = {str(k): k + 1 for k in range(30_000)}
    tracemalloc.start()
    stored.align(ids, 30_001, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000 * 64 * 4 / 2
