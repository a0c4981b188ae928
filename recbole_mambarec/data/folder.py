"""What a dataset folder says about itself.

``dataset/<name>/`` holds RecBole's atomic files (``<name>.inter``, or ``<name>.train.inter`` with ``.valid`` and
``.test``; ``<name>.item``) and, per modality, ``<name>.<modality>.npy`` whose row k belongs to line k of
``<name>.item``. ``dataset.json``, written by ``dataset_prep``, adds the order of the modalities and the provenance.
"""

from __future__ import annotations

import json
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_mambarec.errors import UserError

CARD_NAME = "dataset.json"
CARD_FORMAT = "recbole_mambarec.dataset/"
SPLITS = ("train", "valid", "test")
# interaction columns that RecBole has a use for beyond the two ids (thresholds, temporal order)
_INTER_COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def read_card(folder: Path) -> dict | None:
    """The contents of ``dataset.json``, or None where there is none.

    Raises:
        UserError: the file is no card of a format that this version reads.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON ({error}): prepare the dataset again or remove the file") from None
    if not isinstance(card, dict) or not str(card.get("format", "")).startswith(CARD_FORMAT):
        raise UserError(f"{path} is no dataset card of this project (format '{CARD_FORMAT}...'): remove or rename it")
    return card


def modality_files(folder: Path, name: str) -> dict[str, Path]:
    """The arrays of a folder, modality -> path, in the order of the card, else alphabetical."""
    found = {
        path.name[len(name) + 1 : -len(".npy")]: path
        for path in sorted(folder.glob("*.npy"))
        if path.name.startswith(f"{name}.")
    }
    listed = (read_card(folder) or {}).get("modalities") or {}
    missing = [modality for modality in listed if modality not in found]
    if missing:
        raise UserError(
            f"{folder / CARD_NAME} lists modality '{missing[0]}' but {folder / f'{name}.{missing[0]}.npy'} is missing: "
            "restore the array or prepare the dataset again"
        )
    return {modality: found[modality] for modality in [*listed, *(m for m in found if m not in listed)]}


def describe(folder: Path, name: str) -> dict | None:
    """RecBole configuration that a prepared folder implies; None where the folder is an ordinary RecBole dataset.

    A folder counts as prepared when it has a card or at least one array. The description covers the columns to load,
    the split files and the modalities, nothing else: a folder cannot reconfigure a run.

    Raises:
        UserError: interaction files are missing or empty, or an interaction file lacks the id columns.
    """
    modalities = modality_files(folder, name)
    if read_card(folder) is None and not modalities:
        return None
    whole = folder / f"{name}.inter"
    split = [folder / f"{name}.{part}.inter" for part in SPLITS]
    if any(path.exists() for path in split):
        files = split
        if whole.exists():
            getLogger().warning(f"{folder} holds {whole.name} beside a split: the split is used, {whole.name} is not")
    elif whole.exists():
        files = [whole]
    else:
        raise UserError(
            f"no interactions in {folder}: expected {whole.name}, or {split[0].name} with its .valid and .test"
        )
    headers = [_check_interactions(path) for path in files]
    columns = [column for column in _INTER_COLUMNS if all(column in header for header in headers)]
    load = {"inter": columns}
    items = folder / f"{name}.item"
    if items.is_file():
        with open(items, encoding="utf-8", errors="replace") as stream:
            _check_types(items, stream.readline().rstrip("\r\n"))
        # the catalogue is what .item lists, so that items without interactions can be recommended too
        load["item"] = ["item_id"]
    return {
        "load_col": load,
        "benchmark_filename": list(SPLITS) if files is split else None,
        "modalities": list(modalities),
    }


def _check_interactions(path: Path) -> list[str]:
    """Column names of an interaction file that exists and has at least one row."""
    try:
        with open(path, encoding="utf-8") as stream:
            header = stream.readline().rstrip("\r\n")
            first = stream.readline()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: a split dataset needs .train.inter, .valid.inter and .test.inter"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: write it as UTF-8") from None
    columns = [field.split(":")[0] for field in header.split("\t")]
    if "user_id" not in columns or "item_id" not in columns:
        raise UserError(f"{path} has no columns user_id and item_id: its first line is '{header[:80]}'")
    _check_types(path, header)
    if not first.strip():
        raise UserError(f"{path} has no interactions: an empty split cannot be trained on or evaluated")
    return columns


def _check_types(path: Path, header: str) -> None:
    """RecBole needs ``name:type`` for every column."""
    for field in header.split("\t"):
        if field.partition(":")[2] not in ("token", "token_seq", "float", "float_seq"):
            raise UserError(
                f"{path}: column '{field[:80]}' of the first line has no type: write it as name:token, name:token_seq, "
                "name:float or name:float_seq"
            )


def read_atomic(path: Path) -> pd.DataFrame:
    """An atomic file as a table of strings, columns without their types."""
    # quoting is off because titles carry bare quotation marks
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3, encoding="utf-8")
    table.columns = [column.split(":")[0] for column in table.columns]
    return table


def item_tokens(path: Path, column: str = "item_id") -> np.ndarray:
    """The item tokens of a ``.item`` file in line order, shape ``(n_items,)`` of str.

    Raises:
        UserError: the file is missing, lacks the column, or lists an item twice.
    """
    try:
        table = read_atomic(path)
    except FileNotFoundError:
        raise UserError(f"{path} not found: feature rows are matched to items through it") from None
    except ValueError as error:
        raise UserError(f"{path} is no tab-separated UTF-8 table ({error})") from None
    if column not in table:
        raise UserError(f"{path} has no column '{column}': its columns are {', '.join(table)}")
    tokens = table[column].to_numpy(dtype=object)
    unique, counts = np.unique(tokens.astype(str), return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path} lists item '{unique[np.argmax(counts > 1)]}' more than once: each item needs one line")
    return tokens
