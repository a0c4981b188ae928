"""Arrays that are computed once and kept on disk, under a key of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, cast

import numpy as np

from recbole_mambarec.data.rows import Rows, blocks
from recbole_mambarec_common.files import atomic_file


def default_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/recbole_mambarec``, or the same under ``~/.cache`` (Windows: ``%LOCALAPPDATA%``)."""
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return (Path(base) if base else Path.home() / ".cache") / "recbole_mambarec"


def content_key(*arrays: Rows) -> str:
    """Fingerprint (hexadecimal) of the values, shapes and dtypes of ``arrays``, in memory or on disk."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        dtype = array.dtype.str if isinstance(array, np.ndarray) else "<f4"
        digest.update(f"{dtype}{array.shape}".encode())
        for part in [array] if isinstance(array, np.ndarray) else (rows for _, rows in blocks(array)):
            digest.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
    return digest.hexdigest()


class ArrayCache:
    """Arrays on disk, one ``.npz`` per key.

    A key is a mapping of plain values that names *all* inputs: the content of the data (:func:`content_key`), the
    parameters, and a version that is raised with every change of the computation. A stale entry is therefore never
    found.

    Args:
        folder: where the files are; if ``None``, everything is computed every time and nothing is written.
    """

    def __init__(self, folder: str | os.PathLike | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(
        self, kind: str, key: Mapping[str, object], build: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays under ``key``, built and stored by ``build`` on the first call.

        An unreadable entry is built again. If the folder cannot be written, there is a warning and nothing is kept.
        """
        if self.folder is None:
            return build()
        text = json.dumps(dict(key), sort_keys=True)
        path = self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
        logger = getLogger()
        try:
            with np.load(path, allow_pickle=False) as stored:
                logger.debug(f"read {kind} from {path}")
                return {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            logger.warning(f"cache entry {path} is unreadable ({error}) and is built again")
        arrays = build()
        try:
            with atomic_file(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, **cast("dict[str, Any]", arrays))
        except OSError as error:
            logger.warning(f"{kind} could not be kept in {self.folder} ({error}): it is computed again next time")
        return arrays
