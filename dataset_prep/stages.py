"""Finished stages of a long preparation, kept on disk until the dataset is written.

A stage is a folder named after what it holds and a fingerprint of all it was made from. An interrupted
preparation that is started again finds the finished ones; one with other input or options does not.
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
    """A short name for the content of plain values (numbers, texts, lists, dicts)."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Stages:
    """The stages of one dataset, in ``<out>/.stages/<name>/``."""

    def __init__(self, out: Path, name: str) -> None:
        self.folder = Path(out) / ".stages" / name

    def folder_of(self, stage: str, key: str, make: Callable[[Path], None]) -> Path:
        """The finished folder of a stage; ``make(folder)`` fills it when it is not there yet."""
        place = self.folder / f"{stage}-{key}"
        if not place.is_dir():
            try:
                with atomic_folder(place) as folder:
                    make(folder)
            except BaseException:
                self._forget_empty()
                raise
        return place

    def open_folder(self, stage: str, key: str) -> Path:
        """A folder that fills piece by piece, each piece finished by itself; it may hold some already."""
        place = self.folder / f"{stage}-{key}"
        place.mkdir(parents=True, exist_ok=True)
        return place

    def clear(self) -> None:
        """Remove everything: the dataset is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._forget_empty()

    def _forget_empty(self) -> None:
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()  # unless something stands there, of this dataset or another


def in_pieces(
    folder: Path, n: int, size: int, make: Callable[[int, int], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """``make(start, stop)`` for pieces of 0..n, each saved when it is done and read back when it was before.

    Yields (start, array) with as many rows as the piece has.
    """
    for start in range(0, n, size):
        stop = min(start + size, n)
        file = folder / f"{start:09d}-{stop:09d}.npy"
        if not file.exists():
            rows = make(start, stop)
            with atomic_file(file) as temporary, open(temporary, "wb") as stream:
                np.save(stream, rows, allow_pickle=False)
        yield start, np.load(file, allow_pickle=False)
