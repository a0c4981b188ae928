"""Feature arrays: read them safely, say what is wrong with them, count the missing rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_mambarec.errors import UserError

#: Rows looked at together; 4096 x 4096 float32 is 64 MB.
_BLOCK = 4096

#: Modalities that lead, in this order; all others follow by name.
_LEADING = ("image", "text", "audio", "video")


def read_array(path: Path) -> np.ndarray:
    """The (rows, width) floating point array in a ``.npy`` (memory-mapped) or ``.pt`` file.

    float16, float32 and float64 are kept as they are; bfloat16 and integers become float32.

    Raises:
        UserError: the file is cut, not an array, pickled, not 2-D, empty or not made of real numbers.
    """
    array = _read_pt(path) if path.suffix == ".pt" else _read_npy(path)
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{path.name}: expected a 2-D array (items x width), found shape {array.shape}")
    if array.dtype.kind in "iub":
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise UserError(f"{path.name}: expected float16, float32 or float64, found {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (ValueError, EOFError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError) as error:
        # numpy reports a cut or garbled header in all these ways
        raise UserError(f"{path.name}: not a whole .npy array of numbers ({_first_line(error)})") from None


def _read_pt(path: Path) -> np.ndarray:
    import pickle

    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path.name}: not a file of plain tensors that torch.load(weights_only=True) reads ({_first_line(error)})"
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
    """Mask (rows,) of the rows that are NaN throughout: items which lack this modality.

    Raises:
        UserError: a row holds an infinity, or NaN beside numbers; ``label`` and the row are named.
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
                "(a row may be NaN throughout, meaning that the item lacks the modality)"
            )
        missing[start : start + len(block)] = empty
    return missing


def modality_order(names: list[str]) -> list[str]:
    """``names`` in the order in which models take them: image, text, audio, video, the others by name."""
    return sorted(names, key=lambda name: (_LEADING.index(name) if name in _LEADING else len(_LEADING), name))
