"""Write a prepared dataset: its atomic files, arrays and card, or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_mambarec_common.card import CARD_FORMAT
from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import atomic_folder, write_json

from .arrays import missing_rows
from .card import FORMAT, count, describe_file, versions
from .match import enough
from .tables import SPLITS, Prepared
from .tokens import check_modality_name, check_name, id_fault

#: Rows turned into text at a time.
_CHUNK = 1 << 17


class Written(NamedTuple):
    """A dataset on disk: its folder, its card, and whether writing it changed anything."""

    folder: Path
    card: dict
    changed: bool


def write_dataset(prepared: Prepared, out: str | os.PathLike = "dataset") -> Written:
    """Write ``prepared`` to ``<out>/<name>/``.

    Everything is written into a temporary folder beside the target, which takes its place at the very end. Files of an
    existing folder that its card does not list (such as notes) are carried over. A folder that already holds the same
    bytes is left alone.

    Raises:
        UserError: the name cannot be used, the folder exists and is not a prepared dataset, an id cannot be written, or
            an array does not fit the items.
    """
    name = check_name(prepared.name)
    target = Path(out) / name
    old_card = existing_card(target)
    _check(prepared)
    try:
        with atomic_folder(target) as folder:
            card = _write_files(prepared, folder)
            if old_card is not None:
                if _same(target, folder, card):
                    raise _Unchanged
                _carry_over(target, old_card, folder)
    except _Unchanged:
        return Written(target, card, False)
    return Written(target, card, True)


class _Unchanged(Exception):
    """Raised within ``atomic_folder`` to leave the target untouched."""


def existing_card(folder: Path) -> dict | None:
    """The card of the dataset in ``folder``, or None if there is no folder.

    Raises:
        UserError: the folder (or a file of that name) is something else, which must not be replaced.
    """
    if not folder.exists() and not folder.is_symlink():
        return None
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: remove it, or choose another --name")
    try:
        card = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        is_prepared = str(card["format"]).startswith(CARD_FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_prepared = False
    if not is_prepared:
        raise UserError(
            f"{folder} exists and is not a prepared dataset (it has no card in dataset.json), so it is left alone: "
            "choose another --name, or move it away"
        )
    return card


def _check(prepared: Prepared) -> None:
    for kind, ids in (("user", prepared.user_ids), ("item", prepared.item_ids)):
        for token in ids:
            if fault := id_fault(token):
                raise UserError(f"{kind} id {token!r} cannot be written: {fault}")
        if len(set(ids)) != len(ids):
            raise UserError(f"{kind} ids are not unique")
    n_items = len(prepared.item_ids)
    for modality, array in prepared.modalities.items():
        check_modality_name(modality)
        if array.ndim != 2 or len(array) != n_items:
            raise UserError(f"modality {modality}: shape {array.shape} does not fit {n_items} items")
    for header, column in prepared.item_columns.items():
        if len(column) != n_items:
            raise UserError(f"item column {header}: {len(column)} values do not fit {n_items} items")
    if not len(prepared.interactions):
        raise UserError("no interactions are left, so there is nothing to write")


def _write_files(prepared: Prepared, folder: Path) -> dict:
    name, interactions = prepared.name, prepared.interactions
    header = ["user_id:token", "item_id:token"]
    header += ["rating:float"] if interactions.rating is not None else []
    header += ["timestamp:float"] if interactions.timestamp is not None else []
    files = []
    if interactions.split is None:
        _write_interactions(folder / f"{name}.inter", header, prepared, np.arange(len(interactions)))
        files.append(f"{name}.inter")
    else:
        for number, part in enumerate(SPLITS):
            rows = np.flatnonzero(interactions.split == number)
            _write_interactions(folder / f"{name}.{part}.inter", header, prepared, rows)
            files.append(f"{name}.{part}.inter")
    write_rows(
        folder / f"{name}.item",
        ["item_id:token", *prepared.item_columns],
        [prepared.item_ids, *prepared.item_columns.values()],
    )
    files.append(f"{name}.item")
    described = {file: describe_file(folder / file) for file in files}
    modalities = {}
    encoders = prepared.card.get("encoders", {})
    for modality, array in prepared.modalities.items():
        facts, file = write_modality(folder, name, modality, array)
        modalities[modality] = facts | ({"encoder": encoders[modality]} if modality in encoders else {})
        described[facts["file"]] = file
    card = {
        "format": FORMAT,
        "name": name,
        "modalities": modalities,
        "benchmark_filename": None if interactions.split is None else list(SPLITS),
        "inter_columns": [column.partition(":")[0] for column in header],
        "item_columns": ["item_id", *(column.partition(":")[0] for column in prepared.item_columns)],
        "counts": count(interactions, len(prepared.item_ids)),
        "files": described,
        "sources": [],
        "split": None,
        "seed": None,
        "command": None,
        "versions": versions(),
    }
    card.update({key: value for key, value in prepared.card.items() if key != "encoders"})
    write_json(folder / "dataset.json", card)
    return card


def write_modality(folder: Path, name: str, modality: str, array: np.ndarray) -> tuple[dict, dict]:
    """Write ``<name>.<modality>.npy``, and return what the card says about the modality and about the file.

    A file of that name is removed first, because it may be a hard link that another folder shares.

    Raises:
        UserError: the array holds values that are not finite, or rows for under 1 % of the items.
    """
    path = folder / f"{name}.{modality}.npy"
    missing = int(np.count_nonzero(missing_rows(array, f"modality {modality}")))
    if not enough(len(array) - missing, len(array)):
        raise UserError(
            f"modality {modality}: {len(array) - missing:,} of {len(array):,} items have a row that is not NaN, under "
            "1 %: the source is empty, or belongs to other items"
        )
    path.unlink(missing_ok=True)
    with open(path, "wb") as stream:
        np.save(stream, np.asarray(array, order="C"), allow_pickle=False)
    described = describe_file(path)
    facts = {"file": path.name, "shape": list(array.shape), "dtype": array.dtype.name, "missing": missing}
    return {**facts, "sha256": described["sha256"]}, described


def _write_interactions(path: Path, header: list[str], prepared: Prepared, rows: np.ndarray) -> None:
    users = np.asarray(prepared.user_ids, dtype=object)
    items = np.asarray(prepared.item_ids, dtype=object)
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(header) + "\n")
        for start in range(0, len(rows), _CHUNK):
            part = prepared.interactions.take(rows[start : start + _CHUNK])
            columns = [users[part.users].tolist(), items[part.items].tolist()]
            columns += [_ratings(part.rating)] if part.rating is not None else []
            columns += [_timestamps(part.timestamp)] if part.timestamp is not None else []
            stream.write("\n".join(map("\t".join, zip(*columns))) + "\n")


def _ratings(values: np.ndarray) -> list[str]:
    # few distinct values, so format each once; str() of a float32 is the shortest text that reads back the same
    distinct, position = np.unique(values, return_inverse=True)
    return np.array([str(value) for value in distinct], dtype=object)[position].tolist()


def _timestamps(values: np.ndarray) -> list[str]:
    whole = np.equal(np.floor(values), values).all()
    numbers: np.ndarray = values.astype(np.int64) if whole else values
    return list(map(str, numbers.tolist()))


def write_rows(path: Path, header: Sequence[str], columns: Sequence[Sequence[str]]) -> None:
    """Write text columns as tab-separated UTF-8 with a header line; no column may hold tabs or line ends."""
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(header) + "\n")
        for row in zip(*columns):
            stream.write("\t".join(row) + "\n")


def _same(target: Path, folder: Path, card: dict) -> bool:
    if (target / "dataset.json").read_bytes() != (folder / "dataset.json").read_bytes():
        return False
    try:
        return all(describe_file(target / file) == facts for file, facts in card["files"].items())
    except OSError:
        return False


def _carry_over(target: Path, old_card: dict, folder: Path) -> None:
    listed = {"dataset.json", *old_card.get("files", {})}
    for entry in sorted(target.iterdir()):
        place = folder / entry.name
        if entry.name in listed or place.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, place, symlinks=True)
        else:
            shutil.copy2(entry, place, follow_symlinks=False)
