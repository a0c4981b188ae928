"""Pickled sparse matrices are read however they were written, and nothing that a pickle asks for is run."""

from __future__ import annotations

import copyreg
import gzip
import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep.pickles import read_sparse
from recbole_mambarec.errors import UserError

from .raw import FUZZ

FORMS = ("coo", "csr", "csc")


def some_matrix(seed: int = 0, shape=(9, 7)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random(shape) < 0.4) * rng.integers(1, 5, shape)


def dense(found) -> np.ndarray:
    matrix = np.zeros(found.shape, dtype=bool)
    matrix[found.rows, found.columns] = True
    return matrix


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i1", "u2", "?"])
def test_matrices_as_scipy_writes_them(tmp_path, form, kind, protocol, dtype):
    matrix = some_matrix()
    content = pickle.dumps(getattr(sp, f"{form}_{kind}")(matrix.astype(dtype)), protocol)
    (tmp_path / "m.pkl").write_bytes(content)
    np.testing.assert_array_equal(dense(read_sparse(tmp_path / "m.pkl")), matrix != 0)
    (tmp_path / "m.pkl").write_bytes(gzip.compress(content))
    np.testing.assert_array_equal(dense(read_sparse(tmp_path / "m.pkl")), matrix != 0)


@pytest.mark.parametrize("protocol", range(4))
@pytest.mark.parametrize("form", FORMS)
def test_names_of_older_and_newer_releases(tmp_path, form, protocol):
    matrix = some_matrix(1)
    content = pickle.dumps(sp.coo_matrix(matrix).asformat(form), protocol)
    for scipy_module in (b"scipy.sparse." + form.encode(), b"scipy.sparse._" + form.encode()):
        for numpy_module in (b"numpy.core.", b"numpy._core."):
            other = content.replace(b"scipy.sparse._" + form.encode(), scipy_module)
            other = other.replace(b"numpy._core.", numpy_module).replace(b"numpy.core.", numpy_module)
            (tmp_path / "m").write_bytes(other)
            np.testing.assert_array_equal(dense(read_sparse(tmp_path / "m")), matrix != 0)


def test_row_and_col_of_older_releases_and_explicit_zeros(tmp_path):
    class Old:
        """Pickled as scipy 1.7 does: attributes row and col."""

        def __reduce__(self):
            state = {"_shape": (4, 3), "maxprint": 50, "has_canonical_format": False}
            parts = {"row": np.array([0, 3, 3]), "col": np.array([2, 0, 1]), "data": np.array([1.0, 0.0, 5.0])}
            return copyreg._reconstructor, (sp.coo_matrix, object, None), state | parts

    (tmp_path / "m").write_bytes(pickle.dumps(Old(), 2))
    found = read_sparse(tmp_path / "m")
    assert (found.rows.tolist(), found.columns.tolist(), found.shape) == ([0, 3], [2, 1], (4, 3))


def test_pickle_of_python_2(tmp_path):
    """In Python 2, strings and the bytes of arrays are both str."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def array(code: bytes, values: bytes, n: int) -> bytes:
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        dtype = (
            b"cnumpy\ndtype\n("
            + text(code)
            + b"K\x00K\x01tR(K\x03"
            + text(b"<")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        return start + b"(K\x01(K" + bytes([n]) + b"t" + dtype + b"I00\n" + text(values) + b"tb"

    row, col = np.array([1, 200], "<i4").tobytes(), np.array([0, 2], "<i4").tobytes()
    data = np.array([1, 1], "<f8").tobytes()
    content = b"\x80\x02cscipy.sparse.coo\ncoo_matrix\n)\x81}(" + text(b"_shape") + b"M\x2c\x01K\x03\x86"
    for name, part in (
        (b"row", array(b"i4", row, 2)),
        (b"col", array(b"i4", col, 2)),
        (b"data", array(b"f8", data, 2)),
    ):
        content += text(name) + part
    (tmp_path / "m").write_bytes(content + b"ub.")
    found = read_sparse(tmp_path / "m")
    assert (found.rows.tolist(), found.columns.tolist(), found.shape) == ([1, 200], [0, 2], (300, 3))


# --- nothing is run -------------------------------------------------------------------------------


class Runs:
    """A pickle that calls ``function`` when it is loaded."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def inside(payload, place):
    """The payload in different places of a pickle that looks like a matrix."""
    matrix = sp.csr_matrix(some_matrix())
    if place == "alone":
        return payload
    if place == "attribute":
        matrix.extra = payload
    elif place == "data":
        matrix.__dict__["data"] = payload
    elif place == "shape":
        matrix.__dict__["_shape"] = (payload, 3)
    elif place == "object array":
        matrix.__dict__["data"] = np.array([payload], dtype=object)
    elif place == "list":
        return [matrix, [{"a": (payload,)}]]
    return matrix


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["alone", "attribute", "data", "shape", "object array", "list"])
def test_nothing_is_run(tmp_path, place, protocol):
    made = tmp_path / "made"
    for function, arguments in (
        (os.system, (f"touch {made}",)),
        (subprocess.call, (["touch", str(made)],)),
        (eval, (f"open({str(made)!r}, 'w')",)),
        (exec, (f"open({str(made)!r}, 'w')",)),
        (open, (str(made), "w")),
        (getattr, (os, "system")),
        (np.load, (str(made), None, True)),
        (np.lib.format.open_memmap, (str(made), "w+", "f4", (2,))),
        (sp.save_npz, (str(made), sp.eye(2))),
        (__import__, ("antigravity",)),
    ):
        try:
            content = pickle.dumps(inside(Runs(function, *arguments), place), protocol)
        except (pickle.PicklingError, TypeError):  # a module cannot be pickled
            continue
        (tmp_path / "m.pkl").write_bytes(content)
        with pytest.raises(UserError, match=r"m\.pkl asks for .* nothing in it was run") as caught:
            read_sparse(tmp_path / "m.pkl")
        assert "\n" not in str(caught.value) and "coo_matrix" in str(caught.value)
        assert not list(tmp_path.glob("made*"))


@pytest.mark.parametrize(
    "content",
    [
        # names with a dot, which in protocol 4 reach into the object found
        b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93\x8c\x04true\x85R.",
        b"\x80\x04\x8c\x11scipy.sparse._coo\x8c\x18coo_matrix.__init__.__globals__\x93.",
        # modules that begin like allowed ones
        b"cscipy.sparse.linalg\neigs\n.",
        b"cnumpy.core.multiarray.os\nsystem\n.",
        b"cnumpy.testing._private.utils\nruncommand\n.",
        # BUILD must not change a stand-in: its class, a function, its attributes
        b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02cnumpy\ndtype\nN}X\x07\x00\x00\x00resolveK\x01s\x86b.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x09\x00\x00\x00_functionK\x01sb.",
        b"\x80\x02cscipy.sparse.coo\ncoo_matrix\nN}X\x0a\x00\x00\x00compressedK\x01s\x86b.",
        # a distant memo index, for which memory would be allocated
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        b"I1\np99999999999\n.",
        # a reference to an object outside the file
        b"Pabc\n.",
        b"\x80\x04\x8c\x01aQ.",
        # sizes beyond the end of the file
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        b"\x80\x04B\xff\xff\xff\x7f.",
    ],
)
def test_hostile_opcodes(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_sparse(tmp_path / "m")
    assert "\n" not in str(caught.value)
    good = sp.coo_matrix(some_matrix())
    (tmp_path / "m").write_bytes(pickle.dumps(good))
    np.testing.assert_array_equal(dense(read_sparse(tmp_path / "m")), good.toarray() != 0)


def test_an_array_of_pointers_is_refused(tmp_path):
    """Numpy itself would take the given bytes for pointers if the flags of the dtype were cleared."""
    stream = io.BytesIO()

    class Pointers:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, b"A" * 8)

    matrix = sp.csr_matrix(some_matrix())
    matrix.__dict__["data"] = Pointers()
    pickle.dump(matrix, stream)
    (tmp_path / "m").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="holds an array of 'O8', expected numbers"):
        read_sparse(tmp_path / "m")


# --- other content --------------------------------------------------------------------------------

FAULTS = {
    "lil": (sp.lil_matrix(some_matrix()), r"holds a lil_matrix, but only coo, csr and csc .*pickle.dump"),
    "dok": (sp.dok_matrix(some_matrix()), r"holds a dok_matrix"),
    "dense": (some_matrix(), "holds an array, expected a sparse matrix"),
    "dict": ({"train": 1}, "holds a dict, expected a sparse matrix"),
    "complex": (sp.coo_matrix(some_matrix().astype(complex)), "array of 'c16', expected numbers"),
    "class": (sp.coo_matrix, "expected a sparse matrix"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_other_pickles(tmp_path, case):
    value, sentence = FAULTS[case]
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=sentence):
        read_sparse(tmp_path / "m.pkl")


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("coo", {"data": np.ones(2)}),
        ("coo", {"coords": (np.array([0, 9]), np.array([0, 1])), "data": np.ones(2)}),
        ("coo", {"coords": (np.array([0, -1]), np.array([0, 1])), "data": np.ones(2)}),
        ("coo", {"coords": (np.array([0.0, 1.0]), np.array([0, 1])), "data": np.ones(2)}),
        ("coo", {"coords": 3}),
        ("coo", {"_shape": (9,)}),
        ("coo", {"_shape": (-9, 7)}),
        ("coo", {"_shape": (2**40, 7)}),
        ("coo", {"_shape": ("9", 7)}),
        ("csr", {"indptr": np.arange(3)}),
        ("csr", {"indptr": np.arange(10)[::-1].copy()}),
        ("csr", {"indptr": np.full(10, 5)}),
        ("csc", {"indices": np.zeros((3, 3), int)}),
        ("csc", {"data": [1, 2]}),
    ],
)
def test_parts_that_do_not_fit(tmp_path, form, changes):
    matrix = sp.coo_matrix(some_matrix()).asformat(form)
    matrix.__dict__.update(changes)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(matrix))
    with pytest.raises(UserError, match="not a whole pickle of a sparse matrix"):
        read_sparse(tmp_path / "m.pkl")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
        (b"<!doctype html><html></html>", "an HTML page"),
        (b"", "an empty file"),
        (b"PK\x03\x04", "zip archive"),
        (pickle.dumps(sp.coo_matrix(some_matrix()))[:-9], "not a whole pickle"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, sentence):
    (tmp_path / "m.pkl").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_sparse(tmp_path / "m.pkl")


whole = [pickle.dumps(sp.coo_matrix(some_matrix(2)).asformat(form), p) for form in FORMS for p in (0, 2, 4, 5)]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.sampled_from(whole), st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=4)),
    )
)
@settings(max_examples=100 * FUZZ, deadline=None)
def test_fuzz_pickles(tmp_path_factory, content):
    """Arbitrary bytes, or a valid pickle with some bytes changed."""
    if isinstance(content, tuple):
        changed = bytearray(content[0])
        for place, bits in content[1]:
            changed[place % len(changed)] ^= bits
        content = bytes(changed)
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    path.write_bytes(content)
    try:
        found = read_sparse(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert len(found.rows) == len(found.columns)
    assert not len(found.rows) or (found.rows.max() < found.shape[0] and found.columns.max() < found.shape[1])
