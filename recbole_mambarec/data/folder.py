"""What a dataset folder says about itself.

``dataset/<name>/`` holds RecBole's atomic files (``<name>.inter``, or ``<name>.train.inter`` with ``.valid`` and
``.test``; ``<name>.item``) and, per modality, ``<name>.<modality>.npy`` whose row k belongs to line k of
``<name>.item``. ``dataset.json``, written by ``dataset_prep``, adds the order of the modalities and the provenance.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_mambarec.data.atomic import Layout, first_lines, interaction_columns, typed_columns, undecodable
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.card import CARD_NAME, read_card
from recbole_mambarec_common.files import what_it_is

SPLITS = ("train", "valid", "test")
#: Atomic files as ``dataset_prep`` writes them, which are RecBole's defaults.
PLAIN = Layout()


def modality_files(folder: Path, name: str) -> dict[str, Path]:
    """The arrays of a folder, modality -> path, in the order of the card, else alphabetical."""
    found = {
        path.name[len(name) + 1 : -len(".npy")]: path
        for path in sorted(folder.glob("*.npy"))
        # <name>.npy does not name a modality
        if path.name.startswith(f"{name}.") and path.name != f"{name}.npy"
    }
    listed = (read_card(folder) or {}).get("modalities") or {}
    missing = [modality for modality in listed if modality not in found]
    if missing:
        raise UserError(
            f"{folder / CARD_NAME} lists modality '{missing[0]}' but {folder / f'{name}.{missing[0]}.npy'} is missing: "
            "restore the array or prepare the dataset again"
        )
    return {modality: found[modality] for modality in [*listed, *(m for m in found if m not in listed)]}


def describe(folder: Path, name: str, layout: Layout = PLAIN, parts: Sequence[str] | None = None) -> dict | None:
    """The RecBole configuration that a prepared folder implies; None if the folder is an ordinary RecBole dataset.

    A folder counts as prepared if it has a card or at least one array. The description covers the columns to load, the
    files of the split and the modalities, and nothing else: a folder cannot reconfigure a run.

    Args:
        layout: how its files are written.
        parts: the user's ``benchmark_filename``, empty for the whole ``<name>.inter``; if None, the split is used if
            there is one.

    Raises:
        UserError: interaction files are missing, are empty or lack the id columns.
    """
    modalities = modality_files(folder, name)
    if read_card(folder) is None and not modalities:
        return None
    whole = folder / f"{name}.inter"
    split = [folder / f"{name}.{part}.inter" for part in SPLITS]
    if parts is None and any(path.exists() for path in split):
        parts = SPLITS
        if whole.exists():
            getLogger().warning(f"{folder} holds {whole.name} beside a split: the split is used, {whole.name} is not")
    elif parts is None and not whole.exists():
        raise UserError(
            f"no interactions in {folder}: expected {whole.name}, or {split[0].name} with its .valid and .test"
            f"{_other_interactions(folder, name)}"
        )
    files = interaction_files(folder, name, parts)
    headers = [interaction_columns(path, layout) for path in files]
    wanted = (layout.user, layout.item, layout.rating, layout.time)
    load = {"inter": [column for column in wanted if all(column in header for header in headers)]}
    items = folder / f"{name}.item"
    if items.is_file():
        typed_columns(items, first_lines(items, layout)[0], layout)
        # the catalogue is what .item lists, so that items without interactions can be recommended, too
        load["item"] = [layout.item]
    return {
        "load_col": load,
        "benchmark_filename": list(parts) if parts else None,
        # if there are no arrays, the user decides whether to use ids alone
        "modalities": list(modalities) or None,
    }


def interaction_files(folder: Path, name: str, parts: Sequence[str] | None) -> list[Path]:
    """The interaction files of a dataset: its ``parts`` (``benchmark_filename``), or the whole file if there are none.

    Raises:
        UserError: one of them is missing.
    """
    files = [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]
    for path in files:
        if path.exists():
            continue
        needs = (
            f": a split dataset needs {', '.join(f'.{part}.inter' for part in parts[:-1])} and .{parts[-1]}.inter"
            if parts
            else ""
        )
        raise UserError(f"{path} is missing{needs}{_other_interactions(folder, name)}")
    return files


def _other_interactions(folder: Path, name: str) -> str:
    """The interaction files that a folder has, for a message about a missing one."""
    there = sorted(path.name for path in folder.glob("*.inter"))
    if not there:
        return ""
    parts = [
        file[len(name) + 1 : -len(".inter")]
        for file in there
        if file.startswith(f"{name}.") and file != f"{name}.inter"
    ]
    named = f" (name other parts with benchmark_filename: [{', '.join(parts[:3])}])" if len(parts) >= 3 else ""
    return f"; the folder has {', '.join(there[:6])}{', ...' if len(there) > 6 else ''}{named}"


def read_atomic(path: Path, layout: Layout = PLAIN, missing: bool = False) -> pd.DataFrame:
    """An atomic file as a table of strings, columns without their types.

    Args:
        missing: make nothing of an empty text and of texts such as NA, as RecBole does.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not a table in this layout.
    """
    try:
        table = pd.read_csv(
            path,
            sep=layout.separator,
            dtype=str,
            keep_default_na=missing,
            # between tabs, titles may contain quotation marks; between commas, titles with commas are quoted
            quoting=csv.QUOTE_NONE if layout.separator == "\t" else csv.QUOTE_MINIMAL,
            encoding=layout.encoding,
            engine="c" if len(layout.separator) == 1 else "python",
        )
    except UnicodeError:
        raise undecodable(path, layout.encoding) from None
    except ValueError as error:
        what = what_it_is(path)
        raise UserError(f"{path} is {what or f'not a table of columns ({error})'}") from None
    table.columns = [column.split(":")[0] for column in table.columns]
    return table


def item_tokens(path: Path, layout: Layout = PLAIN) -> np.ndarray:
    """The item tokens of a ``.item`` file in line order, shape ``(n_items,)`` of str.

    Raises:
        UserError: the file is missing, lacks the column, or lists an item twice.
    """
    try:
        table = read_atomic(path, layout)
    except FileNotFoundError:
        raise UserError(f"{path} not found: feature rows are matched to items through it") from None
    if layout.item not in table:
        raise UserError(f"{path} has no column '{layout.item}': its columns are {', '.join(table)}")
    tokens = table[layout.item].to_numpy(dtype=object)
    unique, counts = np.unique(tokens.astype(str), return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path} lists item '{unique[np.argmax(counts > 1)]}' more than once: each item needs one line")
    return tokens
