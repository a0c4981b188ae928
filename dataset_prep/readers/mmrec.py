"""MMRec's layout: an interaction table with split labels, and one array per modality whose row k is item k.

::

    baby/
      baby.inter             userID itemID [rating] [timestamp] x_label      (tab or comma; x_label 0/1/2)
      image_feat.npy         (items, width); also text_feat.npy, v_feat.npy, t_feat.npy, other_feat.pt
      i_id_mapping.csv       asin itemID                                     (optional)
      u_id_mapping.csv       user_id userID                                  (optional)

MRLib's ``inter.csv`` (``user_id,item_id,rating,label``) is the same under other names.
"""

from __future__ import annotations

import csv
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_mambarec.errors import UserError

from ..arrays import missing_rows, modality_order, read_array
from ..card import describe_source
from ..tables import SPLITS, Interactions, Prepared
from ..tokens import check_modality_name, check_name, id_fault

_COLUMNS = {
    "users": ("userID", "user_id", "user"),
    "items": ("itemID", "item_id", "item"),
    "split": ("x_label", "label", "split"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
}
_SHORT_NAMES = {"v": "image", "t": "text", "a": "audio"}
_FEATURE_FILE = re.compile(r"(.+)_feat\.(npy|pt)")
_MAX_CODE = 2**31 - 1


def read_mmrec(source: str | Path, name: str, *, max_bad: float = 0.01) -> Prepared:
    """Read a folder in MMRec's (or MRLib's) layout and keep its split.

    Args:
        source: the folder, or the interaction file in it.
        name: what the dataset is to be called.
        max_bad: largest share of interactions that may stand in two splits before that is an error.

    Items are numbered as in the source; when id maps are there, the raw ids become the tokens. A pair (user,
    item) that occurs twice in one split is kept once; one that occurs in two splits is kept in the earlier of
    train, validation, test (the later one could not be recommended anyway, its item being known) and counted.

    Raises:
        UserError: something in the files is wrong; the file, and the line or row, are named.
    """
    check_name(name)
    table_file = _find_table(Path(source))
    interactions = _read_table(table_file)
    folder = table_file.parent
    feature_files = _find_features(folder)
    arrays, n_items = {}, 0
    for modality, file in feature_files.items():
        array = read_array(file)
        missing_rows(array, file.name)
        if arrays and len(array) != n_items:
            raise UserError(
                f"{file.name} has {len(array)} rows, but {next(iter(feature_files.values())).name} has {n_items}"
            )
        arrays[modality], n_items = array, len(array)
    last_item = int(interactions.items.max())
    if arrays and last_item >= n_items:
        raise UserError(
            f"{table_file.name} names item {last_item}, but the feature files have {n_items} rows (0 to {n_items - 1})"
        )
    n_items = n_items or last_item + 1
    n_users = int(interactions.users.max()) + 1
    notes = []
    if not arrays:
        notes.append("the source has no *_feat.npy or *_feat.pt file, so the dataset has no modality")

    item_map, user_map = _find_map(folder, "i"), _find_map(folder, "u")
    item_ids = _read_map(item_map, ("itemID", "item_id"), n_items) if item_map else _numbers(n_items)
    user_ids = _read_map(user_map, ("userID",), n_users) if user_map else _numbers(n_users)
    # a map may name items beyond the last interaction; without arrays it alone tells how many there are
    if arrays and len(item_ids) != n_items:
        raise UserError(f"{item_map.name} maps {len(item_ids)} items, but the feature files have {n_items} rows")

    interactions, dropped = _drop_duplicates(interactions, max_bad, table_file.name)
    for number, part in enumerate(SPLITS):
        if not np.any(interactions.split == number):
            raise UserError(f"{table_file.name}: the {part} split (label {number}) is empty")
    gaps = n_users - len(np.unique(interactions.users))
    if gaps:
        notes.append(f"{gaps:,} user numbers below {n_users:,} do not occur, so user ids are not contiguous")
    sources = [table_file, *(file for file in (item_map, user_map) if file), *feature_files.values()]
    return Prepared(
        name=name,
        user_ids=user_ids,
        item_ids=item_ids,
        interactions=interactions,
        modalities={modality: arrays[modality] for modality in modality_order(list(arrays))},
        card={
            "sources": [describe_source(file) for file in sources],
            "split": {"method": "from the source (x_label)"},
            "dropped": dropped,
            "notes": notes,
        },
    )


def _find_table(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"there is no folder {source}")
    found = sorted(source.glob("*.inter")) or sorted(source.glob("inter.csv"))
    if not found:
        raise UserError(f"{source} holds neither a *.inter file nor inter.csv, so it is not in MMRec's layout")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{source} holds several interaction files ({names}): give the one to read as SOURCE")
    return found[0]


def _read_text_table(path: Path) -> pd.DataFrame:
    """A small delimited file as text columns; tab or comma, whichever the header holds."""
    try:
        with open(path, encoding="utf-8") as stream:
            header = stream.readline()
        with warnings.catch_warnings():
            # a line with too many cells would lose them, with no more than a warning
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep="\t" if "\t" in header else ",",
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                encoding="utf-8-sig",
                index_col=False,
            )
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not UTF-8 text") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{path.name} has lines with more cells than its header") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path.name} is not a table: {str(error).strip().splitlines()[0]}") from None
    # RecBole's own headers carry types (user_id:token)
    frame.columns = [str(column).strip().partition(":")[0] for column in frame.columns]
    if len(frame) == 0:
        raise UserError(f"{path.name} has no rows")
    return frame


def _read_table(path: Path) -> Interactions:
    frame = _read_text_table(path)
    columns = {}
    for field, names in _COLUMNS.items():
        column = next((name for name in names if name in frame.columns), None)
        if column is not None:
            columns[field] = column
        elif field in ("users", "items", "split"):
            raise UserError(f"{path.name} has no column {' or '.join(names[:2])} (columns: {', '.join(frame.columns)})")
    split = _whole_numbers(frame[columns["split"]], path.name)
    if (strange := np.flatnonzero(split > 2)).size:
        line = int(strange[0]) + 2
        raise UserError(
            f"{path.name}, line {line}: label {split[strange[0]]}, expected 0 (train), 1 (validation) or 2 (test)"
        )
    return Interactions(
        users=_whole_numbers(frame[columns["users"]], path.name).astype(np.int32),
        items=_whole_numbers(frame[columns["items"]], path.name).astype(np.int32),
        rating=_floats(frame, columns.get("rating"), path.name, np.float32),
        timestamp=_floats(frame, columns.get("timestamp"), path.name, np.float64),
        split=split.astype(np.int8),
    )


def _whole_numbers(column: pd.Series, file: str) -> np.ndarray:
    text = column.str.strip()
    bad = np.flatnonzero(~text.str.fullmatch(r"[0-9]{1,10}").to_numpy(dtype=bool))
    if not bad.size:
        values = text.astype(np.int64).to_numpy()
        bad = np.flatnonzero(values > _MAX_CODE)
    if bad.size:
        row = int(bad[0])
        raise UserError(
            f"{file}, line {row + 2}: {column.name} is {column.iloc[row]!r}, expected a whole number from 0"
        )
    return values


def _floats(frame: pd.DataFrame, name: str | None, file: str, dtype) -> np.ndarray | None:
    if name is None:
        return None
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=dtype)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row = int(bad[0])
        raise UserError(f"{file}, line {row + 2}: {name} is {frame[name].iloc[row]!r}, expected a finite number")
    return values


def _find_features(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        match = _FEATURE_FILE.fullmatch(file.name)
        if not match or not file.is_file():
            continue
        modality = check_modality_name(_SHORT_NAMES.get(match[1], match[1]))
        if modality in found:
            raise UserError(f"{found[modality].name} and {file.name} both give the modality {modality}: keep one")
        found[modality] = file
    return found


def _find_map(folder: Path, letter: str) -> Path | None:
    word = {"i": "item", "u": "user"}[letter]
    found = sorted({*folder.glob(f"{letter}_id_map*.csv"), *folder.glob(f"{word}_id_map*.csv")})
    if len(found) > 1:
        raise UserError(f"{found[0].name} and {found[1].name} both map {word} ids: keep one")
    return found[0] if found else None


def _read_map(path: Path, number_names: tuple[str, ...], least: int) -> list[str]:
    """Raw id per number; the numbers must be 0 to n - 1, with n at least ``least``."""
    frame = _read_text_table(path)
    if frame.shape[1] != 2:
        raise UserError(f"{path.name}: expected two columns (raw id, number), found {frame.shape[1]}")
    number_column = next((name for name in number_names if name in frame.columns), frame.columns[1])
    raw_column = next(name for name in frame.columns if name != number_column)
    numbers = _whole_numbers(frame[number_column], path.name)
    if len(np.unique(numbers)) != len(numbers) or numbers.max() != len(numbers) - 1:
        raise UserError(f"{path.name}: the numbers in {number_column} are not each of 0 to {len(numbers) - 1} once")
    if len(numbers) < least:
        raise UserError(f"{path.name} maps {len(numbers)} ids, but the data has {least}")
    tokens = frame[raw_column].str.strip().to_numpy(dtype=object)[np.argsort(numbers)].tolist()
    for number, token in enumerate(tokens):
        if fault := id_fault(token):
            raise UserError(f"{path.name}: the raw id {token!r} of number {number} cannot be used ({fault})")
    if len(set(tokens)) != len(tokens):
        raise UserError(f"{path.name}: a raw id in {raw_column} stands for two numbers")
    return tokens


def _numbers(n: int) -> list[str]:
    return [str(number) for number in range(n)]


def _drop_duplicates(interactions: Interactions, max_bad: float, file: str) -> tuple[Interactions, dict[str, int]]:
    pair = interactions.users.astype(np.int64) * (int(interactions.items.max()) + 1) + interactions.items
    # stable: of equal pairs the one in the earliest split, and of these the first line, comes first
    order = np.lexsort((interactions.split, pair))
    again = np.zeros(len(pair), dtype=bool)
    again[1:] = pair[order][1:] == pair[order][:-1]
    same_split = again.copy()
    same_split[1:] &= interactions.split[order][1:] == interactions.split[order][:-1]
    n_leaks = int(np.count_nonzero(again & ~same_split))
    if n_leaks > max_bad * len(pair):
        raise UserError(
            f"{file}: {n_leaks:,} of {len(pair):,} interactions stand in two splits, over {max_bad:.1%}; "
            "the labels look wrong (a higher --max-bad lets them through)"
        )
    dropped = {
        "duplicate pair within a split": int(np.count_nonzero(same_split)),
        "pair already in an earlier split": n_leaks,
    }
    keep = np.sort(order[~again])
    return interactions.take(keep), dropped
