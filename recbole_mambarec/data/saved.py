"""The contents of RecBole's datasets as tensors and plain values, in files that run no code when they are read.

RecBole pickles its datasets, and loading a pickle runs whatever code is in it. :func:`pack` turns the contents of a
dataset into nested lists of tensors and plain values, :func:`unpack` turns them back, and :func:`write` and
:func:`read` store them in a file, as torch does with weights.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from recbole.config import Config
from recbole.utils import enum_type
from torch import Tensor

from recbole_mambarec_common.files import atomic_file

FORMAT = "recbole_mambarec.data/1"
# RecBole's load_data_and_model replaces torch.load
_load = torch.load
_PLAIN = (bool, int, float, str, Tensor)
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_FACTORIES = {"int": int, "float": float, "str": str, "list": list, "dict": dict, "set": set}
_SPARSE = [
    f"{form}_{kind}" for form in ("coo", "csr", "csc", "lil", "dok", "bsr", "dia") for kind in ("matrix", "array")
]
# instances of classes in these packages are restored from their attributes, without a call
_CLASSES_OF = ("recbole.data.", "recbole.sampler.", "recbole_mambarec.data.")


class NotPackable(ValueError):
    """A value that cannot be expressed as tensors and plain values; the message is its type."""


# ------------------------------------------------------------------------------------------------------------
# values


def pack(value: Any) -> Any:
    """``value`` as nested lists of tensors and plain values; the first entry of a list names the kind of its contents.

    Raises:
        NotPackable: part of it is of a type that RecBole's datasets do not hold.
    """
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    for name, sequence in _SEQUENCES.items():
        if kind is sequence:
            members = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
            return [name, [pack(member) for member in members]]
    if isinstance(value, np.ndarray):
        return _pack_array(value)
    if isinstance(value, np.generic):
        return ["scalar", _pack_array(np.asarray(value))]
    if sp.issparse(value) and kind.__name__ in _SPARSE:
        # a class that is named here, because models may want scipy's matrices rather than its arrays
        triples = value.tocoo()
        arrays = [_pack_array(array) for array in (triples.row, triples.col, triples.data)]
        return ["sparse", kind.__name__, list(value.shape), *arrays]
    if isinstance(value, dict):
        return _pack_mapping(value)
    if isinstance(value, Enum) and getattr(enum_type, kind.__name__, None) is kind:
        return ["enum", kind.__name__, value.name]
    if kind is pd.DataFrame and value.columns.is_unique:
        columns = [[pack(name), _pack_column(value[name])] for name in value.columns]
        return ["frame", columns, _pack_index(value.index)]
    if isinstance(value, Config):
        return ["config"]
    if isinstance(value, logging.Logger):
        return ["logger"]
    allowed = f"{kind.__module__}.".startswith(_CLASSES_OF) and "." not in kind.__qualname__
    # a sampler refers to the dataset that is being packed
    if allowed and not any(isinstance(held, torch.utils.data.Dataset) for held in (value, *vars(value).values())):
        return ["object", kind.__module__, kind.__qualname__, pack(vars(value))]
    raise NotPackable(kind.__qualname__)


def unpack(packed: Any, config: Config) -> Any:
    """The value that :func:`pack` was given.

    Args:
        config: replaces every configuration.

    Raises:
        Exception: of any type, if :func:`pack` did not make the contents.
    """
    if packed is None or type(packed) in _PLAIN:
        return packed
    kind, *rest = packed
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](unpack(member, config) for member in rest[0])
    if kind in _MAPPINGS:
        made = _MAPPINGS[kind]()
        for name, value in rest[0]:  # one by one, because a Counter would count the pairs
            made[unpack(name, config)] = unpack(value, config)
        return made
    if kind == "default":
        return defaultdict(rest[0] and _FACTORIES[rest[0]], unpack(rest[1], config))
    if kind == "numbered":
        return dict(zip(_unpack_array(rest[0], config).tolist(), _unpack_array(rest[1], config).tolist()))
    if kind == "scalar":
        return _unpack_array(rest[0], config)[()]
    if kind == "enum":
        return getattr(enum_type, rest[0])[rest[1]]
    if kind == "frame":
        frame = pd.DataFrame({unpack(name, config): _unpack_column(column, config) for name, column in rest[0]})
        frame.index = _unpack_index(rest[1], config)
        return frame
    if kind == "config":
        return config
    if kind == "logger":
        return logging.getLogger()
    if kind == "sparse":
        name, shape, *arrays = rest
        if name not in _SPARSE:
            raise ValueError(f"{name} is not a sparse matrix")
        row, column, data = (_unpack_array(array, config) for array in arrays)
        form, kind = name.split("_")
        return getattr(sp, f"coo_{kind}")((data, (row, column)), shape=tuple(shape)).asformat(form)
    if kind == "object":
        module, name, state = rest
        return _unpack_object(module, name, state, config)
    return _unpack_array(packed, config)


def _pack_mapping(value: dict) -> list:
    if type(value) is defaultdict:
        factories = [name for name, factory in _FACTORIES.items() if factory is value.default_factory]
        if value.default_factory is not None and not factories:
            raise NotPackable("defaultdict")
        return ["default", factories[0] if factories else None, pack(dict(value))]
    if type(value) is dict and value and all(type(k) is str and type(v) is int for k, v in value.items()):
        # such as the number of every token of a catalogue
        try:
            numbers = np.fromiter(value.values(), dtype=np.int64, count=len(value))
            return ["numbered", _pack_array(np.array(list(value), dtype=object)), _pack_array(numbers)]
        except OverflowError:
            pass
    for name, mapping in _MAPPINGS.items():
        if type(value) is mapping:
            return [name, [[pack(key), pack(entry)] for key, entry in value.items()]]
    raise NotPackable(type(value).__qualname__)


def _pack_array(array: np.ndarray) -> list:
    if not array.dtype.hasobject:
        if array.dtype.names:
            raise NotPackable(f"array of {array.dtype}")
        # as bytes, because torch lacks some of numpy's dtypes
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)
        return ["array", array.dtype.str, list(array.shape), torch.from_numpy(content.copy())]
    members, shape = array.ravel().tolist(), list(array.shape)
    if members and all(type(member) is str for member in members):
        encoded = [member.encode("utf-8", "surrogatepass") for member in members]
        return ["texts", shape, _pack_array(np.frombuffer(b"".join(encoded), np.uint8)), _lengths(encoded)]
    if members and all(type(member) is np.ndarray and member.ndim == 1 for member in members):
        types = {member.dtype for member in members}
        if len(types) == 1 and not next(iter(types)).hasobject:
            return ["ragged", shape, _pack_array(np.concatenate(members)), _lengths(members)]
    return ["objects", shape, [pack(member) for member in members]]


def _lengths(members: list) -> list:
    return _pack_array(np.fromiter(map(len, members), dtype=np.int64, count=len(members)))


def _unpack_array(packed: list, config: Config) -> np.ndarray:
    kind, *rest = packed
    if kind == "array":
        dtype, shape, content = rest
        return content.numpy().view(np.dtype(dtype)).reshape(shape)
    shape = rest[0]
    if kind == "objects":
        members = [unpack(member, config) for member in rest[1]]
    else:
        ends = np.cumsum(_unpack_array(rest[2], config))
        values = _unpack_array(rest[1], config)
        if kind == "texts":
            content = values.tobytes()
            starts = [0, *ends[:-1].tolist()]
            members = [content[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends.tolist())]
        elif kind == "ragged":
            # each with its own memory, as before
            members = [part.copy() for part in np.split(values, ends[:-1])]
        else:
            raise ValueError(f"unknown kind {kind!r}")
    made = np.empty(len(members), dtype=object)
    for place, member in enumerate(members):
        made[place] = member
    return made.reshape(shape)


def _pack_column(column: pd.Series) -> list:
    if isinstance(column.dtype, np.dtype):
        return ["plain", _pack_array(column.to_numpy())]
    return ["cast", str(column.dtype), _pack_array(column.to_numpy(dtype=object, na_value=None))]


def _unpack_column(packed: list, config: Config) -> pd.Series:
    if packed[0] == "plain":
        values = _unpack_array(packed[1], config)
        return pd.Series(values, dtype=values.dtype)
    return pd.Series(_unpack_array(packed[2], config), dtype=packed[1])


def _pack_index(index: pd.Index) -> list:
    if isinstance(index, pd.RangeIndex):
        return ["range", index.start, index.stop, index.step]
    if not isinstance(index.dtype, np.dtype):
        raise NotPackable(f"index of {index.dtype}")
    return ["values", _pack_array(index.to_numpy())]


def _unpack_index(packed: list, config: Config) -> pd.Index:
    return pd.RangeIndex(*packed[1:]) if packed[0] == "range" else pd.Index(_unpack_array(packed[1], config))


def _unpack_object(module: str, name: str, state: object, config: Config) -> object:
    if not f"{module}.".startswith(_CLASSES_OF):
        raise ValueError(f"{module} is not read")
    kind = getattr(importlib.import_module(module), name)
    if not isinstance(kind, type) or kind.__module__ != module:
        raise ValueError(f"{module}.{name} is not a class of that module")
    made: Any = object.__new__(kind)
    vars(made).update(unpack(state, config))
    return made


def digest(packed: object) -> str:
    """Fingerprint (hexadecimal) of packed values, the same for equal contents."""
    found = hashlib.blake2b(digest_size=20)
    left = [packed]
    while left:
        node = left.pop()
        if isinstance(node, list):
            found.update(f"[{len(node)}".encode())
            left.extend(reversed(node))
        elif isinstance(node, Tensor):
            found.update(f"{node.dtype}{tuple(node.shape)}".encode())
            content = node.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if node.numel() else node
            found.update(content.numpy().data.cast("B") if node.numel() else b"")
        else:
            text = repr(node).encode("utf-8", "surrogatepass")
            found.update(f"{type(node).__name__}{len(text)}:".encode() + text)
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------------------
# files


def write(path: str | os.PathLike, contents: Mapping[str, object]) -> None:
    """Write tensors and plain values, completely or not at all."""
    with atomic_file(path) as temporary:
        torch.save({"format": FORMAT, **contents}, temporary)


def read(path: str | os.PathLike) -> dict:
    """What :func:`write` wrote; nothing in the file is run.

    Raises:
        ValueError: the file is damaged or of another kind.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch warns about the pickles that it is given
                contents = _load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen types of exceptions for damaged and other files
            raise ValueError("it is damaged, or a pickle, which may run code and is never read") from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(f"it is of another kind than '{FORMAT}'")
    return contents
