"""Add, replace or remove one modality of a prepared dataset."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import atomic_folder, write_json

from .arrays import missing_rows, modality_order, read_array
from .card import describe_source
from .folder import read_card, read_items
from .lines import utf8_error
from .match import join
from .options import MAX_BAD
from .stages import Stages
from .tokens import check_modality_name
from .write import write_modality


def from_array(
    path: str | Path, item_ids: list[str], ids: str | Path | None = None, first_id: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """The rows of a ``.npy``, ``.npz`` or ``.pt`` file in the order of ``item_ids``, and notes for the user.

    Args:
        ids: a text file whose line k names the item of row k, or a ``.item`` file; without it row k is item k.
        first_id: the rows belong to the items with the ids ``first_id``, ``first_id + 1``, and so on.

    Raises:
        UserError: the rows do not fit the items or the ids; under 1 % of the items have a row; or neither ``ids`` nor
            ``first_id`` is given and the items are numbers out of numerical order, so that row k need not be item k.
    """
    path = Path(path)
    if ids is not None and first_id is not None:
        raise UserError("--ids and --first-id both say which row belongs to which item: give one of them")
    array = read_array(path)
    missing_rows(array, path.name)
    if ids is not None:
        names, source = _read_ids(Path(ids)), Path(ids).name
        if len(names) != len(array):
            raise UserError(f"{source} has {len(names)} ids, but {path.name} has {len(array)} rows")
    elif first_id is not None:
        names, source = (
            list(map(str, range(first_id, first_id + len(array)))),
            f"{path.name} with --first-id {first_id}",
        )
    else:
        _check_order(path.name, len(array), item_ids)
        return array, []
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) != len(names):
        raise UserError(f"{source} names an item twice")
    names_of_items, note = join(item_ids, names, source)
    rows = np.array([row_of.get(name, -1) for name in names_of_items])
    aligned = np.full((len(item_ids), array.shape[1]), np.nan, dtype=array.dtype)
    aligned[rows >= 0] = array[rows[rows >= 0]]
    return aligned, [f"{source}: {note}"] if note else []


def _check_order(file: str, n_rows: int, item_ids: list[str]) -> None:
    if n_rows != len(item_ids):
        raise UserError(
            f"{file} has {n_rows} rows, but the dataset has {len(item_ids)} items: say which row belongs to "
            "which item with --ids FILE, or with --first-id N if row 0 belongs to item N, row 1 to item N + 1, ..."
        )
    numbers = [int(item) if item.isdecimal() and item.isascii() else None for item in item_ids]
    if None not in numbers and numbers != sorted(numbers):
        turn = next(n for n in range(1, len(numbers)) if numbers[n] < numbers[n - 1])
        raise UserError(
            f"the ids of the items are numbers but not in numerical order ({item_ids[turn]!r} follows "
            f"{item_ids[turn - 1]!r}), so say which row of {file} belongs to which item: --first-id N if row 0 belongs "
            "to item N, row 1 to item N + 1, and so on; --ids FILE otherwise (the dataset's own .item file if the rows "
            "are in its order)"
        )


def _read_ids(path: Path) -> list[str]:
    """One id per line; for a ``.item`` file, its column ``item_id``."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise utf8_error(path) from None
    while lines and not lines[-1].strip():
        lines.pop()
    header = [cell.partition(":") for cell in lines[0].strip().split("\t")] if lines else []
    column = next((n for n, (name, colon, _) in enumerate(header) if name == "item_id" and colon), None)
    if column is not None:
        return [(line.split("\t") + [""] * column)[column].strip() for line in lines[1:]]
    return [line.strip() for line in lines]


def set_modality(
    folder: str | Path,
    modality: str,
    *,
    array: str | Path | None = None,
    ids: str | Path | None = None,
    first_id: int | None = None,
    text_encoder: str | None = None,
    text_width: int = 384,
    image_features: str | Path | None = None,
    images: str | Path | None = None,
    image_encoder: object = None,
    image_weights: str | Path | None = None,
    seed: int = 999,
    batch: int = 64,
    max_bad: float = MAX_BAD,
    command: str | None = None,
) -> dict:
    """Add or replace ``modality`` in the dataset in ``folder``, from exactly one of four kinds of source.

    Args:
        array: a ``.npy``, ``.npz`` or ``.pt`` file (see :func:`from_array` for ``ids`` and ``first_id``), or a folder
            of one ``.npy`` per item (see :func:`dataset_prep.vectors.read_vectors`).
        text_encoder: encodes the texts in ``<name>.item`` (see
            :func:`dataset_prep.encoders.text.encode_texts`).
        image_features: Amazon's ``.b`` file, or a folder of one ``.npy`` per item.
        images: a folder of images, with ``image_encoder`` and ``image_weights``.

    Returns:
        The new card. The folder is replaced as a whole, or not at all.

    Raises:
        UserError: the folder is not a prepared dataset, or the source is at fault.
    """
    folder = Path(folder)
    card = read_card(folder)
    check_modality_name(modality)
    if sum(source is not None for source in (array, text_encoder, image_features, images)) != 1:
        raise UserError("give one of --array, --text-encoder, --image-features and --images")
    items = read_items(folder, card["name"])
    stages = Stages(folder.parent, card["name"])
    sources: list[dict] = []
    notes: list[str] = []
    if array is not None:
        values, sources, notes = _from_arrays(Path(array), items["item_id"], ids, first_id, stages)
        encoder = f"as given in {Path(array).name}"
    elif text_encoder is not None:
        from .encoders.text import encode_texts

        if "text" not in items:
            raise UserError(f"{card['name']}.item has no column text, so there is nothing to encode")
        values, encoder = encode_texts(items["text"], text_encoder, stages, width=text_width, seed=seed, batch=batch)
    elif image_features is not None:
        from .vectors import read_image_features

        values, skips, source = read_image_features(image_features, items["item_id"], stages, max_bad)
        notes = skips.notes
        sources, encoder = [source], f"as given in {source['name']}"
    else:
        values, encoder, notes = _from_images(images, image_encoder, image_weights, items["item_id"], stages, batch)
    facts = {"encoder": encoder} | ({"sources": sources} if sources else {}) | ({"notes": notes} if notes else {})
    if command:
        facts["command"] = command
    with _replaced(folder) as new:
        _forget(card, modality)
        described, file = write_modality(new, card["name"], modality, values)
        card["files"][described["file"]] = file
        card["modalities"][modality] = described | facts
        card["modalities"] = {name: card["modalities"][name] for name in modality_order(list(card["modalities"]))}
        write_json(new / "dataset.json", card)
    stages.clear()
    return card


def remove_modality(folder: str | Path, modality: str) -> dict:
    """Remove ``modality`` from the dataset in ``folder``, and return the new card.

    Raises:
        UserError: the folder is not a prepared dataset, or has no such modality.
    """
    folder = Path(folder)
    card = read_card(folder)
    if modality not in card["modalities"]:
        available = ", ".join(card["modalities"]) or "none"
        raise UserError(f"{card['name']} has no modality {modality} (it has: {available})")
    with _replaced(folder) as new:
        (new / str(card["modalities"][modality]["file"])).unlink(missing_ok=True)
        _forget(card, modality)
        write_json(new / "dataset.json", card)
    return card


def _forget(card: dict, modality: str) -> None:
    old = card["modalities"].pop(modality, None)
    if old:
        card["files"].pop(old["file"], None)


def _from_arrays(
    array: Path, item_ids: list[str], ids: str | Path | None, first_id: int | None, stages: Stages
) -> tuple[np.ndarray, list[dict], list[str]]:
    """(rows, descriptions of the sources, notes for the user) from a file or a folder."""
    if array.is_dir():
        if ids is not None or first_id is not None:
            raise UserError(f"{array} is a folder, whose files are named by item: omit --ids and --first-id")
        from .vectors import read_vectors

        values, skips, source = read_vectors(array, item_ids, stages)
        return values, [source], skips.notes
    values, notes = from_array(array, item_ids, ids, first_id)
    return values, [describe_source(file) for file in (array, *([Path(ids)] if ids is not None else []))], notes


def _from_images(
    images, image_encoder, image_weights, item_ids: list[str], stages: Stages, batch: int
) -> tuple[np.ndarray, str, list[str]]:
    from .encoders.image import encode_images, load_encoder

    if image_encoder is None:
        raise UserError("--images needs --image-encoder (timm:MODEL or torchvision:MODEL)")
    if isinstance(image_encoder, str):
        image_encoder = load_encoder(image_encoder, image_weights)
    values, skips = encode_images(images, item_ids, image_encoder, stages, batch=batch)
    broken = skips.counts.total()
    return values, image_encoder.name + (f", {broken:,} broken images" if broken else ""), skips.notes


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A copy of a folder that replaces it at the end; its files are hard links where the file system has them."""
    with atomic_folder(folder) as new:
        shutil.copytree(folder, new, symlinks=True, dirs_exist_ok=True, copy_function=_link)
        yield new


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    # file systems without hard links; Windows, where os.link always follows symbolic links
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)
