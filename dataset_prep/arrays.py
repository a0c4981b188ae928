"""Feature arrays: read them safely, explain what is wrong with them, find their missing rows."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import what_it_is

#: Number of rows checked at a time; 4096 x 4096 float32 take 64 MB.
_BLOCK = 4096

#: The first modalities, in this order; all others follow in alphabetical order.
_LEADING = ("image", "text", "audio", "video")


def read_array(path: Path) -> np.ndarray:
    """The (rows, width) floating point array in a ``.npy`` (memory-mapped), ``.npz`` or ``.pt`` file.

    float16, float32 and float64 are kept as they are; bfloat16 and integers become float32. An ``.npz`` file must hold
    one array.

    Raises:
        UserError: the file is truncated, pickled, or not a nonempty 2-D array of real numbers.
    """
    array = _read_pt(path) if path.suffix.lower() in (".pt", ".pth") else load_npy(path)
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{path.name}: expected a 2-D array (items x width), found shape {array.shape}")
    return plain_floats(array, path.name)


def plain_floats(array: np.ndarray, label: str) -> np.ndarray:
    """``array`` as float16, float32 or float64 in native byte order; integers become float32.

    Raises:
        UserError: it does not hold real numbers.
    """
    if array.dtype.kind in "iub":
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise UserError(f"{label}: expected float16, float32 or float64, found {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


# what numpy, zipfile, zlib, pickle and torch raise for truncated and damaged files
_UNREADABLE = (
    *(ValueError, EOFError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(MemoryError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile),
)


def load_npy(path: Path, stream: IO[bytes] | None = None) -> np.ndarray:
    """The array in a ``.npy`` file (memory-mapped), or the only one in an ``.npz`` file; nothing is unpickled.

    Args:
        stream: the content of the file, if it has been read already.

    Raises:
        UserError: there is no such file, or it is not an array, truncated, pickled, or holds several arrays.
    """
    try:
        value = np.load(path if stream is None else stream, mmap_mode=None if stream else "r", allow_pickle=False)
        if isinstance(value, np.ndarray):
            return value
        with value:
            if len(value.files) == 1:
                return value[value.files[0]]
            names = ", ".join(value.files[:5])
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected a file") from None
    except _UNREADABLE as error:
        raise UserError(f"{path.name}: not a whole .npy array of numbers{_what(path, error)}") from None
    raise UserError(f"{path.name} holds {len(value.files)} arrays ({names}): save the one with the features as .npy")


def _what(path: Path, error: Exception) -> str:
    what, convert = what_it_is(path), _CONVERT.get(path.suffix.lower())
    if convert and (what is None or what.startswith(("a Parquet", "a safetensors"))):
        return f": convert it, {convert.format(path.name, path.stem)}"
    return f": it is {what}" if what else f" ({_first_line(error)})"


# how to convert other formats to an array; {0} is the file and {1} its name without the ending
_CONVERT = {
    ".csv": "`numpy.save('{1}.npy', pandas.read_csv('{0}').to_numpy('float32'))` without the column of ids",
    ".tsv": "`numpy.save('{1}.npy', pandas.read_csv('{0}', sep='\\t').to_numpy('float32'))` without the column of ids",
    ".parquet": "`numpy.save('{1}.npy', pandas.read_parquet('{0}').to_numpy('float32'))` without the column of ids",
    ".safetensors": "`numpy.save('{1}.npy', safetensors.numpy.load_file('{0}')[NAME])`",
}


def _read_pt(path: Path) -> np.ndarray:
    import pickle

    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected a file") from None
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        what = what_it_is(path)
        # torch's own message says what in a pickle is not a plain tensor
        what = f": it is {what}" if what and "Python pickle" not in what else f" ({_first_line(error)})"
        raise UserError(
            f"{path.name}: not a file of plain tensors that torch.load(weights_only=True) reads{what}"
        ) from None
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, torch.Tensor):
        raise UserError(f"{path.name}: expected one tensor, found {type(value).__name__}")
    value = value.detach()
    if value.is_sparse:
        value = value.to_dense()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def missing_rows(array: np.ndarray, label: str) -> np.ndarray:
    """Mask (rows,) of the rows that are all NaN: those of items that lack this modality.

    Raises:
        UserError: a row holds an infinity, or NaN among numbers; the message names ``label`` and the row.
    """
    missing = np.zeros(len(array), dtype=bool)
    for start in range(0, len(array), _BLOCK):
        block = array[start : start + _BLOCK]
        finite = np.isfinite(block)
        if finite.all():
            continue
        empty = np.isnan(block).all(axis=1)
        faulty = np.flatnonzero(~finite.all(axis=1) & ~empty)
        if len(faulty):
            raise UserError(
                f"{label}: row {start + int(faulty[0])} holds values that are not finite "
                "(a row may be all NaN, meaning that the item lacks the modality)"
            )
        missing[start : start + len(block)] = empty
    return missing


def modality_order(names: list[str]) -> list[str]:
    """``names`` in the order in which models use them: image, text, audio, video, then the others by name."""
    return sorted(names, key=lambda name: (_LEADING.index(name) if name in _LEADING else len(_LEADING), name))
