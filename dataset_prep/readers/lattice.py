"""LATTICE's and MMSSL's layout: interactions in three JSON files, one array per modality whose row k is item k.

::

    baby/
      image_feat.npy             (items, width); also text_feat.npy, ...
      5-core/
        train.json               {"0": [12, 7, ...], ...}: number of the user -> numbers of the items
        val.json, test.json      the same; users may be absent or without items
        item_list.txt            raw id, tab, number (optional; also user_list.txt)

MMSSL (and MICRO, LLMRec) put the three files beside the arrays.

Sources: https://github.com/CRIPAC-DIG/LATTICE, https://github.com/HKUDS/MMSSL
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError

from ..lines import read_text
from ..tables import SPLITS, Interactions, Prepared
from ..tokens import check_name
from .numbered import MAX_CODE, check_raw_ids, find_features, other_layout, prepare_numbered

_FILES = {"train": ("train.json",), "valid": ("val.json", "valid.json"), "test": ("test.json",)}


def read_lattice(source: str | Path, name: str, *, max_bad: float = 0.01) -> Prepared:
    """Read a folder in LATTICE's or MMSSL's layout and keep its split.

    Args:
        source: the folder with ``train.json``, or the one above ``5-core``.
        name: the name of the dataset.
        max_bad: the largest share of interactions that may be in two splits.

    Raises:
        UserError: something in the files is wrong; the message names the file and the user or row.
    """
    check_name(name)
    folder = _find_folder(Path(source))
    files = [_find_file(folder, part) for part in SPLITS]
    users, items, parts = [], [], []
    for part, file in enumerate(files):
        for user, items_of_user in _read_json(file):
            users.append(np.full(len(items_of_user), user, dtype=np.int32))
            items.append(np.array(items_of_user, dtype=np.int32))
            parts.append(np.full(len(items_of_user), part, dtype=np.int8))
    if not sum(map(len, users)):
        raise UserError(f"{', '.join(file.name for file in files)} hold no interactions")
    features = find_features(folder)
    if not features and re.fullmatch(r"\d+-core", folder.resolve().name):
        features = find_features(folder.resolve().parent)
    maps = {side: path if (path := folder / f"{side}_list.txt").is_file() else None for side in ("item", "user")}
    return prepare_numbered(
        name,
        Interactions(np.concatenate(users), np.concatenate(items), split=np.concatenate(parts)),
        file=f"{folder.resolve().name}/*.json",
        features=features,
        tables=files,
        split="from the source (train.json, val.json, test.json)",
        max_bad=max_bad,
        maps=maps,
        read_map=_read_list,
    )


def _find_folder(source: Path) -> Path:
    if not source.is_dir():
        raise UserError(f"there is no folder {source}")
    if (source / "train.json").is_file():
        return source
    found = sorted(path.parent for path in source.glob("*/train.json"))
    if not found:
        raise UserError(
            f"{source} holds no train.json, so it is not in LATTICE's or MMSSL's layout{other_layout(source)}"
        )
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise UserError(f"{source} holds train.json in several folders ({names}): give the one to read as SOURCE")
    return found[0]


def _find_file(folder: Path, part: str) -> Path:
    for name in _FILES[part]:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} holds no {' or '.join(_FILES[part])}, and a dataset needs all three parts")


def _read_json(path: Path) -> Iterator[tuple[int, list[int]]]:
    """(user, items) for each user in a file."""
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not whole JSON ({str(error)[:120]})") from None
    if not isinstance(value, _Pairs):
        raise UserError(f"{path.name}: expected an object, user -> list of items, found a {type(value).__name__}")
    seen = set()
    for key, items in value.pairs:
        if not re.fullmatch(r"[0-9]{1,10}", key) or int(key) > MAX_CODE:
            raise UserError(
                f"{path.name}: user {key[:40]!r} is not a whole number from 0, as in this layout: a table of raw ids "
                "is read by `python -m dataset_prep csv`"
            )
        if int(key) in seen:
            raise UserError(f"{path.name}: user {key} is listed twice")
        seen.add(int(key))
        if not isinstance(items, list):
            raise UserError(f"{path.name}: user {key} has {_short(items)}, expected a list of items")
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= MAX_CODE:
                raise UserError(f"{path.name}: user {key} has item {_short(item)}, expected a whole number from 0")
        yield int(key), items


class _Pairs:
    """The entries of a JSON object; a dict would drop the first of two equal keys."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.pairs = pairs


def _short(value: object) -> str:
    return "an object" if isinstance(value, _Pairs) else repr(value)[:40]


def _read_list(path: Path, side: str, least: int) -> list[str]:
    """The raw id of each number in ``item_list.txt`` or ``user_list.txt``: lines of a raw id and its number."""
    lines = read_text(path).splitlines()
    cells = [line.rsplit("\t" if "\t" in line else None, 1) for line in lines if line.strip()]
    if cells and not cells[0][-1].strip().isdecimal():
        cells = cells[1:]  # a header, as in NGCF's lists
    numbers = {}
    for n, row in enumerate(cells, start=1):
        if len(row) != 2 or not re.fullmatch(r"[0-9]{1,10}", row[1].strip()):
            raise UserError(f"{path.name}, entry {n}: expected a raw id, a tab and a number")
        numbers[int(row[1])] = row[0].strip()
    if sorted(numbers) != list(range(len(cells))):
        raise UserError(f"{path.name}: the numbers are not each of 0 to {len(cells) - 1} once")
    if len(numbers) < least:
        raise UserError(f"{path.name} lists {len(numbers)} {side}s, but the data has {least}")
    return check_raw_ids([numbers[n] for n in range(len(numbers))], path.name)
