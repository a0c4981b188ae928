"""Read a pickled scipy sparse matrix without running anything that the file asks for.

A pickle names functions and classes, and loading it calls them. Here none of them is ever looked up: the few names
that numpy and scipy write for a matrix stand for small classes of this module, which only store what they are given;
every other name is refused. Not even numpy's own ``ndarray`` and ``dtype`` can be reached, because their
``__setstate__`` trusts its argument (a dtype of objects over given bytes would be pointers of the file's choice). The
matrix is assembled from the stored parts once each of them has been checked.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import what_it_is

from .lines import open_source

_REWRITE = "write it again with `pickle.dump(scipy.sparse.coo_matrix(matrix), file)`"
#: The largest plausible number of users or items.
_MAX_SIDE = 2**31 - 1


@dataclass
class SparseMatrix:
    """The nonzero entries of a matrix at ``rows`` and ``columns``, (n,) int64, and its ``shape``."""

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]


def read_sparse(path: Path) -> SparseMatrix:
    """The matrix in a pickle of a scipy ``coo``, ``csr`` or ``csc`` matrix or array, plain or gzip.

    Pickles by Python 2 and 3, by old and new numpy and scipy, in protocols 0 to 5, are read.

    Raises:
        UserError: there is no such file, it holds anything else than such a matrix (none of which is run), or its parts
            do not fit each other.
    """
    with open_source(path) as source:
        content = source.read()
    try:
        _check_sizes(content)
        return _matrix(_Unpickler(content).load())
    except _Refused as refused:
        raise UserError(f"{path.name} {refused}") from None
    except _BROKEN as error:
        what = what_it_is(path)
        if what and "Python pickle" not in what and not what.startswith("gzip"):
            raise UserError(f"{path.name} is not a pickled matrix: it is {what}") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path.name} is not a whole pickle of a sparse matrix ({reason})") from None


class _Refused(Exception):
    """The file holds something that is not read; the message continues the name of the file."""


# what the standard library's unpickler and the stand-ins below raise for truncated and damaged files
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError),
    *(OverflowError, MemoryError, RecursionError, struct.error),
)


def _check_sizes(content: bytes) -> None:
    """Refuse memo indices beyond the length of the file, for which the unpickler would allocate memory."""
    for code, argument, _ in pickletools.genops(content):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > len(content):
            raise pickle.UnpicklingError("an entry of the memo beyond the end")


class _Unpickler(pickle.Unpickler):
    """Knows only the names in :func:`_stand_in`."""

    def __init__(self, content: bytes) -> None:
        # strings of Python 2 are bytes; Latin-1 preserves each of them
        super().__init__(io.BytesIO(content), encoding="latin1")

    def find_class(self, module: str, name: str) -> object:
        return _stand_in(module, name)

    def persistent_load(self, _) -> object:
        raise _Refused(f"refers to something outside the file, which no sparse matrix does: {_REWRITE}")


def _stand_in(module: str, name: str) -> object:
    shown = "".join(sign if sign.isprintable() else "?" for sign in f"{module}.{name}"[:100])
    if re.fullmatch(r"scipy\.sparse(\._?[a-z]+)?", module):
        form, _, kind = name.partition("_")
        if form in _SPARSE and kind in ("matrix", "array"):
            return _SPARSE[form]
        if kind in ("matrix", "array"):
            raise _Refused(
                f"holds a {shown.rpartition('.')[2]}, but only coo, csr and csc matrices are read: {_REWRITE}"
            )
    package, _, inner = module.partition(".")
    if package == "numpy" and re.fullmatch(r"|_?core(\.multiarray|\.numeric|\._multiarray_umath)?", inner):
        found = _NUMPY.get(name)
    else:
        found = _OTHERS.get((_RENAMED.get(module, module), name))
    if found is None:
        raise _Refused(
            f"asks for {shown}, which no sparse matrix needs, so nothing in it was run: if you "
            f"trust its origin, load it there and {_REWRITE}"
        )
    return found


class _Stored:
    """A stand-in; a pickle cannot change the class itself, because ``__setstate__`` needs an instance."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Object(_Stored):
    """``builtins.object``, which old protocols name as the base class."""

    __slots__ = ()


class _Sparse(_Stored):
    """A matrix: ``state`` is the dict of its attributes."""

    __slots__ = ()
    compressed: int | None = None  # the axis along which indptr divides the entries


class _Coo(_Sparse):
    __slots__ = ()


class _Csr(_Sparse):
    __slots__ = ()
    compressed = 0


class _Csc(_Sparse):
    __slots__ = ()
    compressed = 1


_SPARSE: dict[str, type[_Sparse]] = {"coo": _Coo, "csr": _Csr, "csc": _Csc}


class _Dtype(_Stored):
    """``numpy.dtype``: its name, and with ``state`` its byte order."""

    __slots__ = ("name",)

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        self.name, self.state = name, None

    def resolve(self) -> np.dtype:
        """The dtype, if it is numeric."""
        if not isinstance(self.name, str) or not re.fullmatch(r"[<>|=]?([biuf][1248]|b1)", self.name):
            raise _Refused(f"holds an array of {str(self.name)[:20]!r}, expected numbers: {_REWRITE}")
        dtype = np.dtype(self.name)
        if self.state is not None:
            order, *rest = self.state[1:5]
            if order not in ("<", ">", "|", "=") or rest != [None, None, None]:
                raise ValueError("a structured dtype")
            dtype = dtype.newbyteorder(order)
        return dtype


class _Array(_Stored):
    """``numpy.ndarray``: ``state`` is (version, shape, dtype, Fortran order, bytes)."""

    __slots__ = ()

    def resolve(self) -> np.ndarray:
        """The array (n,), if it is numeric and complete."""
        _, shape, dtype, _, content = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or len(shape) != 1:
            raise ValueError("an array that is not one-dimensional")
        content = _bytes(content)
        array = np.frombuffer(content, dtype=dtype.resolve())
        if len(array) != _whole(shape[0]):
            raise ValueError("an array whose length differs from its shape")
        return array


class _Function:
    """A function that a pickle may call; it has no attributes that the pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("a function with state")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise ValueError("an array of a subclass")
    return _Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", content)
    return array


def _scalar(dtype: object, content: object = b"") -> int | float:
    if not isinstance(dtype, _Dtype):
        raise ValueError("a scalar without a dtype")
    (value,) = np.frombuffer(_bytes(content), dtype=dtype.resolve()).tolist()
    return value


def _encode(text: object, encoding: object = None) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("a string in place of bytes")
    return text.encode("latin-1")


def _reconstructor(kind: Any, base: object, state: object) -> _Sparse:
    if kind not in _SPARSE.values() or base is not _Object or state is not None:
        raise ValueError("an object that is not a matrix")
    return kind()


_RENAMED = {"copy_reg": "copyreg", "__builtin__": "builtins"}  # in Python 2
_NUMPY = {
    "ndarray": _Array,
    "dtype": _Dtype,
    "_reconstruct": _Function(_reconstruct),
    "_frombuffer": _Function(_from_buffer),
    "scalar": _Function(_scalar),
}
_OTHERS = {
    ("_codecs", "encode"): _Function(_encode),
    ("copyreg", "_reconstructor"): _Function(_reconstructor),
    ("builtins", "object"): _Object,
    ("builtins", "bytes"): _Function(bytes),  # how old protocols write empty bytes
}


def _bytes(content: object) -> bytes:
    if isinstance(content, str):  # from Python 2
        return content.encode("latin-1")
    if not isinstance(content, (bytes, bytearray)):
        raise ValueError("an array without bytes")
    return bytes(content)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SIDE:
        raise ValueError("a size that is not a whole number from 0")
    return value


def _matrix(value: object) -> SparseMatrix:
    """The matrix from its stored parts, without explicit zeros."""
    if not isinstance(value, _Sparse):
        kind = "an array" if isinstance(value, _Array) else f"a {type(value).__name__}"
        raise _Refused(f"holds {kind}, expected a sparse matrix of users x items: {_REWRITE}")
    state = getattr(value, "state", None)
    if not isinstance(state, dict):
        raise ValueError("a matrix without its parts")
    shape = state.get("_shape", state.get("shape"))
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError("a matrix without two dimensions")
    shape = (_whole(shape[0]), _whole(shape[1]))
    data = _part(state, "data")
    if value.compressed is None:
        coords = state.get("coords")
        if isinstance(coords, tuple) and len(coords) == 2:
            state = dict(zip(("row", "col"), coords))
        rows, columns = _part(state, "row"), _part(state, "col")
    else:
        starts, minor = _part(state, "indptr"), _part(state, "indices")
        starts = _positions(starts, len(minor) + 1)
        if len(starts) != shape[value.compressed] + 1 or starts[0] != 0 or (np.diff(starts) < 0).any():
            raise ValueError("an indptr that does not divide the entries")
        data, minor = data[: starts[-1]], minor[: starts[-1]]
        major = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        rows, columns = (major, minor) if value.compressed == 0 else (minor, major)
    if not len(rows) == len(columns) == len(data):
        raise ValueError("parts of different lengths")
    rows, columns = _positions(rows, shape[0]), _positions(columns, shape[1])
    nonzero = data != 0
    return SparseMatrix(rows[nonzero], columns[nonzero], shape)


def _part(state: dict, name: str) -> np.ndarray:
    array = state.get(name)
    if not isinstance(array, _Array):
        raise ValueError(f"a matrix without {name}")
    return array.resolve()


def _positions(numbers: np.ndarray, n: int) -> np.ndarray:
    if numbers.dtype.kind not in "iu":
        raise ValueError("positions that are not whole numbers")
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < n):
        raise ValueError("a position outside the matrix")
    return numbers.astype(np.int64)
