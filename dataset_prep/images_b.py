"""``image_features_Baby.b`` of Amazon 2014: records of 10 bytes of ASIN and 4096 little-endian float32.

Source: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html ("Visual Features")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import what_it_is

from .card import describe_source
from .lines import open_source
from .match import Seen, enough, no_match
from .progress import bar
from .skips import Skips
from .stages import Stages, fingerprint

ID_BYTES, WIDTH = 10, 4096
_RECORD = np.dtype([("id", f"V{ID_BYTES}"), ("row", "<f4", (WIDTH,))])
#: Records read together (64 MB).
_TOGETHER = 4096


def read_b(path: str | Path, item_ids: Sequence[str], target: Path, max_bad: float) -> tuple[np.ndarray, Skips]:
    """The rows of ``item_ids`` in a ``.b`` file, plain or gzip.

    Args:
        item_ids: the n items wanted.
        target: a ``.npy`` file to be written, which holds the array instead of the memory.
        max_bad: the largest share of records that may be unusable (with values that are not finite).

    Returns:
        a memory map (n, 4096) float32 with rows of NaN for the items that the file does not have; and the counts of
        records that were left out, because they are not finite or their item came before.

    Raises:
        UserError: there is no such file, it ends within a record, too many records are unusable, or it has under 1 %
            of the items.
    """
    path = Path(path)
    wanted = {item.encode("utf-8"): row for row, item in enumerate(item_ids)}
    array = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=(len(item_ids), WIDTH))
    array[:] = np.nan
    found = np.zeros(len(item_ids), dtype=bool)
    named, seen = set(), Seen()
    skips = Skips(path.name)
    with open_source(path) as source, bar(path.name, path.stat().st_size, "B") as shown:
        while block := _read_full(source, _TOGETHER * _RECORD.itemsize):
            shown.update(source.position() - shown.n)
            whole = len(block) // _RECORD.itemsize
            if whole * _RECORD.itemsize != len(block):
                if what := what_it_is(path):
                    raise UserError(f"{path.name} is not a file of image features: it is {what}")
                raise UserError(
                    f"{path.name} ends in the middle of record {skips.lines + whole}: either the download is "
                    f"incomplete, or these are not records of {ID_BYTES} bytes and {WIDTH} float32"
                )
            skips.lines += whole
            records = np.frombuffer(block, dtype=_RECORD)
            for record in records:
                token = record["id"].tobytes().rstrip(b"\0 ")
                seen.add(token.decode("utf-8", "replace"))
                row = wanted.get(token)
                if row is None:
                    continue
                named.add(row)
                if not np.isfinite(record["row"]).all():
                    skips.add("image features that are not finite")
                elif found[row]:
                    skips.add("image features of an item given twice")
                else:
                    array[row], found[row] = record["row"], True
    skips.check(max_bad)
    if not enough(len(named), len(item_ids)):
        raise no_match(item_ids, seen, len(named), path.name)
    array.flush()
    return array, skips


def read_b_once(
    path: str | Path, item_ids: Sequence[str], stages: Stages, max_bad: float
) -> tuple[np.ndarray, Skips, dict]:
    """(memory map, counts, description of the source) as by :func:`read_b`, whose result is kept in ``stages``."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    source = describe_source(path)

    def read(folder: Path) -> None:
        _, skips = read_b(path, item_ids, folder / "rows.npy", max_bad)
        (folder / "skips.json").write_text(json.dumps(skips.as_dict()), encoding="utf-8")

    place = stages.folder_of("image-features", fingerprint(source, max_bad, list(item_ids)), read)
    skips = Skips.from_dict(json.loads((place / "skips.json").read_text(encoding="utf-8")))
    return np.load(place / "rows.npy", mmap_mode="r"), skips, source


def _read_full(source, size: int) -> bytes:
    """``size`` bytes, fewer only at the end of the file; a gzip stream may give fewer at a time."""
    parts, got = [], 0
    while got < size and (part := source.read(size - got)):
        parts.append(part)
        got += len(part)
    return b"".join(parts)
