"""What is common to layouts that number users and items from 0, with row k of each array belonging to item k."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError

from ..arrays import load_npy, missing_rows, modality_order, read_array
from ..card import describe_source
from ..tables import SPLITS, Interactions, Prepared
from ..tokens import check_modality_name, id_fault

#: The largest number that a user or item may have.
MAX_CODE = 2**31 - 1
#: Up to this number of users or items, their ratio to interactions is not checked.
_MANY = 1_000_000

_SHORT_NAMES = {"v": "image", "t": "text", "a": "audio"}
_FEATURE_FILE = re.compile(r"(.+)_feat\.(.+)")
_READ = ("npy", "npz", "pt")


def prepare_numbered(
    name: str,
    interactions: Interactions,
    *,
    file: str,
    features: dict[str, Path],
    tables: list[Path],
    split: str,
    max_bad: float,
    maps: dict[str, Path | None] | None = None,
    read_map: Callable[[Path, str, int], list[str]] | None = None,
    least: tuple[int, int] = (0, 0),
) -> Prepared:
    """A dataset of numbered users and items that keeps the split of its source.

    Args:
        interactions: with ``split``; at least one.
        file: the name of the source of the interactions, for messages.
        features: modality -> array file, see :func:`find_features`.
        tables: the files that the interactions come from.
        split: the description of the split in the card.
        max_bad: the largest share of interactions that may be in two splits.
        maps: ``user`` and ``item`` -> a file with their raw ids; without it the numbers are the ids.
        read_map: (that file, ``user`` or ``item``, smallest number of ids) -> the raw id of each number.
        least: smallest numbers of users and of items, given by the source; some may have no interactions.

    A pair (user, item) that occurs twice in one split is kept once. One that occurs in two splits is kept in the first
    of train, validation and test, and counted; in the later one it would be masked in any case.

    Raises:
        UserError: arrays, maps and interactions do not fit each other, a split is empty, or too many pairs are in two
            splits.
    """
    arrays, n_items = _read_features(features)
    last_item = max(int(interactions.items.max()), least[1] - 1)
    if arrays and last_item >= n_items:
        raise UserError(
            f"{file} names item {last_item}, but the feature files have {n_items} rows (0 to {n_items - 1})"
        )
    n_items = n_items or last_item + 1
    n_users = max(int(interactions.users.max()) + 1, least[0])
    for side, n in (("user", n_users), ("item", n_items)):
        if n > _MANY and n > 100 * len(interactions):
            raise UserError(
                f"{file} numbers {side}s up to {n - 1:,} for {len(interactions):,} interactions, so these are raw ids, "
                "not numbers from 0: a table of raw ids is read by `python -m dataset_prep csv`"
            )
    notes = _not_read(features, tables[0].parent, n_items)
    if not arrays:
        notes.append("the source has no *_feat.npy or *_feat.pt file, so the dataset has no modality")
    item_map, user_map = ((maps or {}).get(side) for side in ("item", "user"))
    item_ids = read_map(item_map, "item", n_items) if item_map else _numbers(n_items)
    user_ids = read_map(user_map, "user", n_users) if user_map else _numbers(n_users)
    # a map may name items beyond the last interaction; without arrays, only the map tells how many items there are
    if arrays and len(item_ids) != n_items:
        raise UserError(f"{item_map.name} maps {len(item_ids)} items, but the feature files have {n_items} rows")
    interactions, dropped = _drop_duplicates(interactions, max_bad, file)
    for number, part in enumerate(SPLITS):
        if not np.any(interactions.split == number):
            raise UserError(f"{file}: the {part} split (label {number}) is empty")
    gaps = n_users - len(np.unique(interactions.users))
    if gaps:
        notes.append(f"{gaps:,} user numbers below {n_users:,} do not occur, so user ids are not contiguous")
    sources = [*tables, *(path for path in (item_map, user_map) if path), *features.values()]
    return Prepared(
        name=name,
        user_ids=user_ids,
        item_ids=item_ids,
        interactions=interactions,
        modalities={modality: arrays[modality] for modality in modality_order(list(arrays))},
        card={
            "sources": [describe_source(path) for path in sources],
            "split": {"method": split},
            "dropped": dropped,
            "notes": notes,
        },
    )


def other_layout(source: Path) -> str:
    """The end of the error for a folder in another layout: the command that reads it, if there is one."""
    signs = {"mmrec": ("*.inter", "inter.csv"), "lattice": ("train.json", "*/train.json"), "diffmm": ("trnMat.pkl",)}
    for command, patterns in signs.items():
        if any(any(source.glob(pattern)) for pattern in patterns):
            return f"; `python -m dataset_prep {command}` reads it"
    return ""


def find_features(folder: Path) -> dict[str, Path]:
    """Modality -> ``<modality>_feat.npy``, ``.npz`` or ``.pt`` in a folder; ``v``, ``t`` and ``a`` are abbreviations.

    Raises:
        UserError: two files give the same modality, or the only one is of a kind that is not read.
    """
    found: dict[str, Path] = {}
    other: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        match = _FEATURE_FILE.fullmatch(file.name)
        if not match or not file.is_file() or file.name.startswith("."):
            continue
        if match[2] not in _READ:
            other[_SHORT_NAMES.get(match[1], match[1])] = file
            continue
        modality = check_modality_name(_SHORT_NAMES.get(match[1], match[1]))
        if modality in found:
            raise UserError(f"{found[modality].name} and {file.name} both give the modality {modality}: keep one")
        found[modality] = file
    for modality, file in other.items():
        if modality not in found:
            raise UserError(
                f"{file.name} is not read, so the modality {modality} would be missing: unpack or convert it to "
                f"{modality}_feat.npy (or move it away, to leave the modality out)"
            )
    return found


def _not_read(features: dict[str, Path], folder: Path, n_items: int) -> list[str]:
    """A note on arrays in the folder that do not have the name of a feature file.

    Raises:
        UserError: there is no modality, but one of these arrays has a row for each item.
    """
    other_arrays = [path for path in sorted(folder.glob("*.npy")) if path not in features.values()]
    for path in other_arrays if not features else ():
        try:
            shape = load_npy(path).shape
        except UserError:
            continue  # not an array of features
        if len(shape) == 2 and shape[0] == n_items:
            raise UserError(
                f"{path.name} has a row for each of the {n_items} items, but is not called <modality>_feat.npy, as "
                "image_feat.npy is: rename it, or move it away to leave the modality out"
            )
    if not other_arrays:
        return []
    names = ", ".join(path.name for path in other_arrays[:5])
    return [f"not read, because they are not called <modality>_feat.npy: {names}"]


def _read_features(features: dict[str, Path]) -> tuple[dict[str, np.ndarray], int]:
    """(the arrays, the number of rows that they all have)."""
    arrays: dict[str, np.ndarray] = {}
    n_rows = 0
    for modality, file in features.items():
        array = read_array(file)
        missing_rows(array, file.name)
        if arrays and len(array) != n_rows:
            raise UserError(f"{file.name} has {len(array)} rows, but {next(iter(features.values())).name} has {n_rows}")
        arrays[modality], n_rows = array, len(array)
    return arrays, n_rows


def check_raw_ids(tokens: list[str], file: str) -> list[str]:
    """``tokens``, the raw id of each number, if they can be ids and are distinct.

    Raises:
        UserError: they cannot, or are not.
    """
    for number, token in enumerate(tokens):
        if fault := id_fault(token):
            raise UserError(f"{file}: the raw id {token!r} of number {number} cannot be used ({fault})")
    if len(set(tokens)) != len(tokens):
        raise UserError(f"{file}: two numbers have the same raw id")
    return tokens


def _numbers(n: int) -> list[str]:
    return [str(number) for number in range(n)]


def _drop_duplicates(interactions: Interactions, max_bad: float, file: str) -> tuple[Interactions, dict[str, int]]:
    pair = interactions.users.astype(np.int64) * (int(interactions.items.max()) + 1) + interactions.items
    # stable: among equal pairs, those of the earliest split come first, in the order of the file
    order = np.lexsort((interactions.split, pair))
    repeated = np.zeros(len(pair), dtype=bool)
    repeated[1:] = pair[order][1:] == pair[order][:-1]
    same_split = repeated.copy()
    same_split[1:] &= interactions.split[order][1:] == interactions.split[order][:-1]
    n_leaks = int(np.count_nonzero(repeated & ~same_split))
    if n_leaks > max_bad * len(pair):
        raise UserError(
            f"{file}: {n_leaks:,} of {len(pair):,} interactions are in two splits, over {max_bad:.1%}: "
            "the labels look wrong (a higher --max-bad accepts them)"
        )
    dropped = {
        "duplicate pair within a split": int(np.count_nonzero(same_split)),
        "pair already in an earlier split": n_leaks,
    }
    keep = np.sort(order[~repeated])
    return interactions.take(keep), dropped
