"""Finished stages of a long preparation, kept on disk until the dataset is written.

A stage is a folder named after its content and a fingerprint of everything it was made from. A preparation that is
started again after an interruption reuses the finished ones, unless its input or its options have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from recbole_mambarec_common.files import atomic_file, atomic_folder


def fingerprint(*values: object) -> str:
    """A short name for the content of plain values (numbers, strings, lists, dicts)."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Stages:
    """The stages of one dataset, in ``<out>/.stages/<name>/``."""

    def __init__(self, out: Path, name: str) -> None:
        self.folder = Path(out) / ".stages" / name

    def folder_of(self, stage: str, key: str, make: Callable[[Path], None]) -> Path:
        """The finished folder of a stage; ``make(folder)`` fills it if it does not exist yet."""
        place = self.folder / f"{stage}-{key}"
        if not place.is_dir():
            try:
                with atomic_folder(place) as folder:
                    make(folder)
            except BaseException:
                self._remove_if_empty()
                raise
        return place

    def open_folder(self, stage: str, key: str) -> Path:
        """The folder of a stage that consists of pieces, some of which may already be there."""
        place = self.folder / f"{stage}-{key}"
        place.mkdir(parents=True, exist_ok=True)
        return place

    def clear(self) -> None:
        """Remove all stages, once the dataset is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails, and need not succeed, while there are stages of this or another dataset


def in_pieces(
    folder: Path, n: int, size: int, make: Callable[[int, int], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """The results of ``make(start, stop)`` for consecutive pieces of 0..n; each is saved, and not made a second time.

    Args:
        folder: where the pieces are kept.
        n: number of rows in total.
        size: number of rows of a piece.

    Yields:
        (start, array), the array with as many rows as the piece.
    """
    for start in range(0, n, size):
        stop = min(start + size, n)
        file = folder / f"{start:09d}-{stop:09d}.npy"
        if not file.exists():
            rows = make(start, stop)
            with atomic_file(file) as temporary, open(temporary, "wb") as stream:
                np.save(stream, rows, allow_pickle=False)
        yield start, np.load(file, allow_pickle=False)
