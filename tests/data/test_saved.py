"""Contents of datasets as tensors and plain values: nothing is lost, and nothing is run."""

import logging
import math
import os
import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_mambarec.data import saved
from recbole_mambarec.data.saved import NotPackable, digest, pack, read, unpack, write

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([*FeatureType])
keys = st.text() | st.integers() | st.booleans()
kinds = st.sampled_from(["i8", "i4", "u2", "f4", "f8", "?", "U3", "M8[s]"]).map(np.dtype)
arrays = of_numpy.arrays(kinds, of_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
texts = st.lists(st.text(), max_size=4).map(lambda members: np.array([*members, None], dtype=object)[:-1])
mixed = st.lists(st.none() | st.text() | st.floats(), max_size=4).map(lambda m: np.array([*m, None], dtype=object)[:-1])
values = st.recursive(
    scalars | arrays | texts | mixed,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(keys, inner, max_size=3).map(lambda d: defaultdict(int, d))
        | st.dictionaries(st.text(), st.integers(), max_size=3)
        | st.dictionaries(st.text(), st.integers(0, 9), max_size=3).map(Counter)
        | st.sets(keys, max_size=3)
    ),
    max_leaves=8,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == object:
            for one, other in zip(a.ravel(), b.ravel()):
                assert_same(one, other)
        else:
            np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert list(map(repr, a)) == list(map(repr, b))
        assert getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
        for one, other in zip(a.values(), b.values()):
            assert_same(one, other)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b


@given(values)
def test_values_come_back_as_they_were(value):
    packed = pack(value)
    back = unpack(packed, config=None)
    assert_same(back, value)
    assert digest(pack(back)) == digest(packed)


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", ["coo", "csr", "csc", "lil", "dok", "bsr", "dia"])
def test_sparse_matrices_come_back_as_they_were(form, kind):
    dense = np.array([[0, 1.5, 0], [2, 0, 0]], dtype=np.float32)
    value = getattr(sp, f"{form}_{kind}")(dense)
    back = unpack(pack({"w": value}), config=None)["w"]
    assert type(back) is type(value) and back.dtype == value.dtype
    np.testing.assert_array_equal(back.toarray(), dense)


@given(values, values)
def test_equal_digests_are_of_equal_values(one, other):
    if digest(pack(one)) == digest(pack(other)):
        assert_same(one, other)


def test_tables_come_back_as_they_were():
    sequences = np.empty(3, dtype=object)
    sequences[:] = [np.array([1, 2]), np.array([], dtype=np.int64), np.array([3])]
    uneven = np.empty(3, dtype=object)
    uneven[:] = [np.array([0.5]), np.array([1]), None]
    frame = pd.DataFrame(
        {
            "time": np.array([1.6e9 + 1, np.nan, 1.6e9 + 2]),
            "sequences": sequences,
            "uneven": uneven,
            "looks like text": pd.Series(["a", "b", "c"], dtype=object),
            "text": pd.Series(["a", None, "c"], dtype="string"),
        },
        index=[4, 2, 7],
    )
    for table in (frame, frame.reset_index(drop=True), frame.iloc[:0]):
        back = unpack(pack(table), config=None)
        pd.testing.assert_frame_equal(back, table)
        assert [a.dtype for a in back["sequences"]] == [a.dtype for a in table["sequences"]]
        assert digest(pack(back)) == digest(pack(table))
        back.loc[:, "time"] = 0.0  # it can be written to


def test_interactions_come_back_with_whatever_they_hold():
    interaction = Interaction({"user_id": torch.arange(3), "x": torch.rand(3, 2)})
    interaction.exact_times = np.array([1.6e9, 1.6e9 + 1, 1.6e9 + 2])
    back = unpack(pack(interaction), config=None)
    assert type(back) is Interaction and len(back) == 3
    assert torch.equal(back["x"], interaction["x"])
    assert back.exact_times.tolist() == interaction.exact_times.tolist()
    assert unpack(pack({"a": FeatureSource.USER_ID, "b": logging.getLogger()}), None) == {
        "a": FeatureSource.USER_ID,
        "b": logging.getLogger(),
    }


@pytest.mark.parametrize("value", [object(), os.getcwd, Path("x"), {"a": [torch.device("cpu")]}, np.dtype("i4")])
def test_what_has_no_form_of_plain_values_is_said(value):
    with pytest.raises(NotPackable):
        pack(value)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Bomb()),
        pickle.dumps({"format": saved.FORMAT}),
        b"",
        b"PK\x03\x04",
    ],
)
def test_files_from_elsewhere_are_refused(tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    try:
        contents = read(path)
    except ValueError as error:
        assert "damaged" in str(error)
    else:
        assert contents == {"format": saved.FORMAT}
    assert not Path("exploded").exists()


def test_a_file_of_torch_that_can_run_code_is_refused(tmp_path):
    torch.save({"format": saved.FORMAT, "contents": Bomb()}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="may run code and is never read"):
        read(tmp_path / "file.pth")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "packed",
    [
        ["object", "os", "_Environ", ["dict", []]],
        ["object", "recbole.data.utils", "os", ["dict", []]],
        ["object", "recbole.data.dataset.dataset", "pickle", ["dict", []]],
        ["enum", "Enum", "x"],
        ["unknown", 1],
        [],
        ["array", "<i8", [5], torch.zeros(8, dtype=torch.uint8)],
    ],
)
def test_invalid_contents_are_refused(packed):
    with pytest.raises(Exception):  # noqa: B017 - of any kind, as it says
        unpack(packed, config=None)


def test_a_file_is_whole_or_absent(tmp_path):
    write(tmp_path / "file.pth", {"contents": pack([1, np.arange(3)])})
    before = (tmp_path / "file.pth").read_bytes()
    with pytest.raises(TypeError):
        write(tmp_path / "file.pth", {"contents": (x for x in ())})
    assert (tmp_path / "file.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
