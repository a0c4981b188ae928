"""Validate a prepared dataset: does the folder hold what its card says, and can models read it?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError

from .arrays import missing_rows, read_array
from .card import count, describe_file
from .folder import interaction_files, read_card, read_items, rows
from .tables import Interactions
from .tokens import id_fault


def check_dataset(folder: str | Path) -> tuple[dict, list[str]]:
    """(card, problems): a sentence for each problem; the dataset is sound if there are none.

    Raises:
        UserError: the folder is not a prepared dataset at all.
    """
    folder = Path(folder)
    card = read_card(folder)
    problems: list[str] = []
    if card["name"] != folder.resolve().name:
        problems.append(f"the card is for '{card['name']}', but the folder is called '{folder.resolve().name}'")
    for file, facts in card["files"].items():
        if not (folder / file).is_file():
            problems.append(f"{file} is missing")
        elif describe_file(folder / file) != facts:
            problems.append(f"{file} is not the file that the card describes (its size or SHA-256 differs)")
    try:
        items = read_items(folder, card["name"])["item_id"]
    except UserError as error:
        return card, [*problems, str(error)]
    problems += _id_problems(items, f"{card['name']}.item")
    for modality, facts in card["modalities"].items():
        problems += _modality_problems(folder, modality, facts, len(items))
    problems += _interaction_problems(folder, card, items)
    return card, problems


def _id_problems(ids: list[str], file: str) -> list[str]:
    problems = []
    faulty = [token for token in ids if id_fault(token)]
    if faulty:
        problems.append(f"{file}: {len(faulty)} ids cannot be used, such as {faulty[0]!r} ({id_fault(faulty[0])})")
    if repeated := len(ids) - len(set(ids)):
        problems.append(f"{file}: {repeated} items are listed twice")
    return problems


def _modality_problems(folder: Path, modality: str, facts: dict, n_items: int) -> list[str]:
    try:
        array = read_array(folder / str(facts["file"]))
        missing = int(np.count_nonzero(missing_rows(array, f"modality {modality}")))
        expected = (list(facts["shape"]), facts["dtype"], facts["missing"])
    except UserError as error:
        return [str(error)]
    except (KeyError, TypeError):
        return [f"modality {modality}: the card lacks file, shape, dtype or missing"]
    problems = []
    if len(array) != n_items:
        problems.append(f"modality {modality}: {len(array)} rows, but there are {n_items} items")
    if (list(array.shape), array.dtype.name, missing) != expected:
        problems.append(
            f"modality {modality}: {array.shape} {array.dtype.name} with {missing} missing, unlike in the card"
        )
    return problems


def _interaction_problems(folder: Path, card: dict, items: list[str]) -> list[str]:
    problems: list[str] = []
    item_codes = {token: code for code, token in enumerate(items)}
    user_codes: dict[str, int] = {}
    users, positions, parts = [], [], []
    for part, file in enumerate(interaction_files(card)):
        try:
            lines = rows(folder / file)
            header = next(lines, [])
            if [cell.partition(":")[0] for cell in header] != card.get("inter_columns"):
                problems.append(f"{file}: its columns differ from those of the card")
            numbers = [n for n, cell in enumerate(header) if cell.endswith(":float")]
            for number, cells in enumerate(lines, start=2):
                fault = _line_fault(cells, header, numbers, item_codes)
                if fault:
                    problems.append(f"{file}, line {number}: {fault}")
                    if len(problems) > 20:
                        return [*problems, "there may be more"]
                    continue
                users.append(user_codes.setdefault(cells[0], len(user_codes)))
                positions.append(item_codes[cells[1]])
                parts.append(part)
        except UserError as error:
            problems.append(str(error))
    problems += _id_problems(list(user_codes), "interactions")
    split = np.array(parts, dtype=np.int8) if card.get("benchmark_filename") else None
    table = Interactions(np.array(users, dtype=np.int64), np.array(positions, dtype=np.int64), split=split)
    repeated = len(table) - len(np.unique(table.users * max(len(items), 1) + table.items))
    if repeated:
        problems.append(f"{repeated} interactions repeat a pair of user and item")
    if split is not None and len(table) and not np.bincount(split, minlength=3).all():
        problems.append("a part of the split is empty")
    if not problems and (counts := count(table, len(items))) != card["counts"]:
        wrong = [key for key in counts if counts[key] != card["counts"].get(key)]
        problems.append(f"the counts of the card differ from those of the files ({', '.join(wrong)})")
    return problems


def _line_fault(cells: list[str], header: list[str], numbers: list[int], items: dict[str, int]) -> str | None:
    if len(cells) != len(header) or len(cells) < 2:
        return f"{len(cells)} cells, expected {len(header)}"
    if cells[1] not in items:
        return f"item {cells[1]!r} is not in the list of items"
    for n in numbers:
        try:
            if not math.isfinite(float(cells[n])):
                raise ValueError
        except ValueError:
            return f"{header[n]} is {cells[n]!r}, expected a number"
    return None
