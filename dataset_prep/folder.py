"""Read a prepared dataset back: its card, its items, its interactions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_mambarec_common.card import CARD_NAME
from recbole_mambarec_common.card import read_card as read_any_card
from recbole_mambarec_common.errors import UserError

from .lines import utf8_error
from .progress import bar
from .tables import SPLITS


def read_card(folder: Path) -> dict:
    """The card of a prepared dataset, with the entries that all cards have.

    Raises:
        UserError: there is no such folder, or it holds no such card.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    card = read_any_card(folder)
    if card is None:
        raise UserError(f"{folder} holds no {CARD_NAME}, so it is not a prepared dataset")
    kinds = {"name": str, "modalities": dict, "files": dict, "counts": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(card.get(key), kind)]
    if wrong:
        raise UserError(f"{folder / CARD_NAME} is not the card of a prepared dataset (it has no '{wrong[0]}')")
    return card


def rows(path: Path) -> Iterator[list[str]]:
    """The cells of every line of an atomic file, the header first."""
    try:
        size = path.stat().st_size
        with open(path, encoding="utf-8-sig", newline="\n") as stream, bar(path.name, size, "B") as shown:
            for line in stream:
                shown.update(len(line))
                yield line.rstrip("\n").split("\t")
    except UnicodeDecodeError:
        raise utf8_error(path) from None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None


def read_items(folder: Path, name: str) -> dict[str, list[str]]:
    """The columns of ``<name>.item`` by their header without type; ``item_id`` is among them.

    Raises:
        UserError: there is no such file, it lists no item, or a line has too few or too many cells.
    """
    lines = rows(folder / f"{name}.item")
    header = [cell.partition(":")[0] for cell in next(lines, [""])]
    if "item_id" not in header:
        raise UserError(f"{name}.item has no column item_id")
    cells = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"{name}.item, line {number}: {len(line)} cells, expected {len(header)}")
        cells.append(line)
    if not cells:
        raise UserError(f"{name}.item has no items")
    return dict(zip(header, map(list, zip(*cells))))


def interaction_files(card: dict) -> list[str]:
    """Names of the interaction files of a dataset, in the order of :data:`dataset_prep.tables.SPLITS`."""
    parts = [f".{part}" for part in SPLITS] if card.get("benchmark_filename") else [""]
    return [f"{card['name']}{part}.inter" for part in parts]


def degrees(folder: Path, card: dict) -> tuple[np.ndarray, np.ndarray]:
    """(interactions per user, interactions per item of the catalogue), each in descending order."""
    user_degrees: dict[str, int] = {}
    item_degrees = dict.fromkeys(read_items(folder, card["name"])["item_id"], 0)
    for file in interaction_files(card):
        lines = rows(folder / file)
        next(lines, None)
        for user, item, *_ in lines:
            user_degrees[user] = user_degrees.get(user, 0) + 1
            item_degrees[item] = item_degrees.get(item, 0) + 1
    return _descending(user_degrees), _descending(item_degrees)


def _descending(counts: dict[str, int]) -> np.ndarray:
    return np.sort(np.fromiter(counts.values(), dtype=np.int64))[::-1]
