"""MMRec's layout: an interaction table with split labels, and one array per modality whose row k is item k.

::

    baby/
      baby.inter             userID itemID [rating] [timestamp] x_label      (tab or comma; x_label 0/1/2)
      image_feat.npy         (items, width); also text_feat.npy, v_feat.npy, t_feat.npy, other_feat.pt
      i_id_mapping.csv       asin itemID                                     (optional)
      u_id_mapping.csv       user_id userID                                  (optional)

MRLib's ``inter.csv`` (``user_id,item_id,rating,label``) has the same content under other names.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import what_it_is

from ..lines import not_text, utf8_error
from ..tables import Interactions, Prepared
from ..tokens import check_name
from .numbered import MAX_CODE, check_raw_ids, find_features, other_layout, prepare_numbered

_COLUMNS = {
    "users": ("userID", "user_id", "user"),
    "items": ("itemID", "item_id", "item"),
    "split": ("x_label", "label", "split"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
}
_NUMBER_COLUMNS = {"item": ("itemID", "item_id"), "user": ("userID",)}


def read_mmrec(source: str | Path, name: str, *, max_bad: float = 0.01) -> Prepared:
    """Read a folder in MMRec's (or MRLib's) layout and keep its split.

    Args:
        source: the folder, or the interaction file in it.
        name: the name of the dataset.
        max_bad: the largest share of interactions that may be in two splits.

    Items are numbered as in the source; if there are id maps, the raw ids become the tokens. For pairs that occur twice
    see :func:`dataset_prep.readers.numbered.prepare_numbered`.

    Raises:
        UserError: something in the files is wrong; the message names the file and the line or row.
    """
    check_name(name)
    table_file = _find_table(Path(source))
    interactions = _read_table(table_file)
    folder = table_file.parent
    return prepare_numbered(
        name,
        interactions,
        file=table_file.name,
        features=find_features(folder),
        tables=[table_file],
        split="from the source (x_label)",
        max_bad=max_bad,
        maps={"item": _find_map(folder, "i"), "user": _find_map(folder, "u")},
        read_map=_read_map,
    )


def _find_table(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"there is no folder {source}")
    found = sorted(source.glob("*.inter")) or sorted(source.glob("inter.csv"))
    if not found:
        raise UserError(
            f"{source} holds neither a *.inter file nor inter.csv, so it is not in MMRec's layout{other_layout(source)}"
        )
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{source} holds several interaction files ({names}): give the one to read as SOURCE")
    return found[0]


def _read_text_table(path: Path) -> pd.DataFrame:
    """A small delimited file as columns of text; the separator is the tab, comma, semicolon or bar in its header."""
    what = what_it_is(path)
    if what and what.startswith("gzip"):
        raise UserError(f"{path.name} is not a table: it is {what}")
    if fault := not_text(path):
        raise fault
    try:
        with open(path, encoding="utf-8-sig") as stream:
            header = stream.readline()
        with warnings.catch_warnings():
            # excess cells of a line would be dropped with nothing but a warning
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=next((sign for sign in "\t,;|" if sign in header), ","),
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                encoding="utf-8-sig",
                index_col=False,
            )
    except UnicodeDecodeError:
        raise utf8_error(path) from None
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
        bad = np.flatnonzero(values > MAX_CODE)
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


def _find_map(folder: Path, letter: str) -> Path | None:
    word = {"i": "item", "u": "user"}[letter]
    found = sorted({*folder.glob(f"{letter}_id_map*.csv"), *folder.glob(f"{word}_id_map*.csv")})
    if len(found) > 1:
        raise UserError(f"{found[0].name} and {found[1].name} both map {word} ids: keep one")
    return found[0] if found else None


def _read_map(path: Path, side: str, least: int) -> list[str]:
    """The raw id of each ``user`` or ``item``; the numbers must be 0 to n - 1, with n at least ``least``."""
    frame = _read_text_table(path)
    if frame.shape[1] != 2:
        raise UserError(f"{path.name}: expected two columns (raw id, number), found {frame.shape[1]}")
    number_column = next((name for name in _NUMBER_COLUMNS[side] if name in frame.columns), frame.columns[1])
    raw_column = next(name for name in frame.columns if name != number_column)
    numbers = _whole_numbers(frame[number_column], path.name)
    if len(np.unique(numbers)) != len(numbers) or numbers.max() != len(numbers) - 1:
        raise UserError(f"{path.name}: the numbers in {number_column} are not each of 0 to {len(numbers) - 1} once")
    if len(numbers) < least:
        raise UserError(f"{path.name} maps {len(numbers)} ids, but the data has {least}")
    tokens = frame[raw_column].str.strip().to_numpy(dtype=object)[np.argsort(numbers)].tolist()
    return check_raw_ids(tokens, path.name)
