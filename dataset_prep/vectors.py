"""A folder with one ``.npy`` per item, named by the item's id, as Ducho writes it.

::

    visual_embeddings/torch/ResNet50/avgpool/B000000001.npy      (width,) or (1, width)

Source: https://github.com/sisinflab/Ducho
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from recbole_mambarec_common.errors import UserError

from .arrays import load_npy, missing_rows, plain_floats
from .match import join
from .progress import bar
from .skips import Skips
from .stages import Stages, fingerprint
from .tokens import file_stem


def find_vectors(folder: Path, item_ids: Sequence[str]) -> tuple[list[Path | None], str | None]:
    """(the file of each item, or None; a sentence for the user if file names and ids are written differently).

    Args:
        folder: holds the files, possibly in a folder further down.
        item_ids: a file has the name of its item, possibly encoded by :func:`dataset_prep.tokens.file_stem`.

    Raises:
        UserError: no such folder, no ``.npy`` in it, several folders with some, or files of under 1 % of the items.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    files = {path.name[: -len(".npy")]: path for path in sorted(_folder_of_files(folder).glob("*.npy"))}
    named = {unquote(stem): path for stem, path in files.items()} | files
    names, note = join(item_ids, named, f"the folder {folder.name}", "the files must be called <item id>.npy")
    return [files.get(file_stem(name)) or named.get(name) for name in names], note


def _folder_of_files(folder: Path) -> Path:
    """The folder that holds the files: Ducho puts them three levels down (library, model, layer)."""
    if any(folder.glob("*.npy")):
        return folder
    found = sorted({path.parent for path in folder.rglob("*.npy")})
    if not found:
        raise UserError(f"{folder} holds no .npy file: give the folder with one <item id>.npy per item")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:3])
        raise UserError(f"{folder} holds .npy files in {len(found)} folders ({names}): give the one to read")
    return found[0]


def read_vectors(folder: str | Path, item_ids: Sequence[str], stages: Stages) -> tuple[np.ndarray, Skips, dict]:
    """One row per item, NaN for the items without a file.

    Returns:
        a memory map (n, width) with the dtype of the first file (float16, float32 or float64); ``Skips`` whose notes
        say how names and ids differ; and the description of the source for the card.

    Raises:
        UserError: see :func:`find_vectors`; or a file does not hold a single complete row, has a different width than
            the first, or holds values that are not finite. The message names the file.
    """
    folder = Path(folder)
    files, note = find_vectors(folder, item_ids)
    described = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file is not None]

    def read(place: Path) -> None:
        array, source = None, hashlib.sha256()
        size = 0
        with bar(folder.name, len(described), "file") as shown:
            for row, file in enumerate(files):
                if file is None:
                    continue
                content = file.read_bytes()
                source.update(file.name.encode() + b"\0" + hashlib.sha256(content).digest())
                size += len(content)
                vector = _vector(file, content)
                if array is None:
                    shape = (len(files), len(vector))
                    array = np.lib.format.open_memmap(place / "rows.npy", mode="w+", dtype=vector.dtype, shape=shape)
                    array[:] = np.nan
                    first = file
                elif len(vector) != array.shape[1]:
                    raise UserError(
                        f"{file.name} has {len(vector)} numbers, but {first.name} has {array.shape[1]}: the files in "
                        f"{file.parent.name} must come from the same model and layer"
                    )
                array[row] = vector
                shown.update(1)
        array.flush()
        facts = {"name": folder.name, "files": len(described), "bytes": size, "sha256": source.hexdigest()}
        (place / "source.json").write_text(json.dumps(facts), encoding="utf-8")

    place = stages.folder_of("vectors", fingerprint(described, list(item_ids)), read)
    skips = Skips(folder.name)
    skips.lines = len(described)
    skips.notes += [f"{folder.name}: {note}"] if note else []
    source = json.loads((place / "source.json").read_text(encoding="utf-8"))
    return np.load(place / "rows.npy", mmap_mode="r"), skips, source


def read_image_features(
    path: str | Path, item_ids: Sequence[str], stages: Stages, max_bad: float
) -> tuple[np.ndarray, Skips, dict]:
    """Amazon's ``.b`` file, or a folder of one file per item; returns as :func:`read_vectors`."""
    if Path(path).is_dir():
        return read_vectors(path, item_ids, stages)
    from .images_b import read_b_once

    return read_b_once(path, item_ids, stages, max_bad)


def _vector(file: Path, content: bytes) -> np.ndarray:
    array = load_npy(file, io.BytesIO(content))
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or not array.size:
        raise UserError(f"{file.name}: expected one row of numbers, shape (width,) or (1, width), found {array.shape}")
    array = plain_floats(array, file.name)
    missing_rows(array[None], file.name)
    return array
