"""Add, replace or remove one modality of a prepared dataset."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_mambarec.errors import UserError
from recbole_mambarec.files import atomic_folder, write_json

from .arrays import missing_rows, modality_order, read_array
from .card import describe_source
from .folder import read_card, read_items
from .skips import MAX_BAD
from .stages import Stages
from .tokens import check_modality_name
from .write import write_modality


def from_array(path: str | Path, item_ids: list[str], ids: str | Path | None = None) -> np.ndarray:
    """The rows of a ``.npy`` or ``.pt`` file in the order of ``item_ids``.

    Args:
        ids: a text file whose line k names the item of row k; without it row k is item k.

    Raises:
        UserError: the rows do not fit the items or the ids, or no id is known.
    """
    path = Path(path)
    array = read_array(path)
    missing_rows(array, path.name)
    if ids is None:
        if len(array) != len(item_ids):
            raise UserError(
                f"{path.name} has {len(array)} rows, but the dataset has {len(item_ids)} items; "
                "--ids FILE tells which row belongs to which"
            )
        return array
    ids = Path(ids)
    try:
        names = ids.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{ids.name} is not UTF-8 text") from None
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if len(names) != len(array):
        raise UserError(f"{ids.name} has {len(names)} ids, but {path.name} has {len(array)} rows")
    if len(set(names)) != len(names):
        raise UserError(f"{ids.name} names an item twice")
    row_of = {name: row for row, name in enumerate(names)}
    source = np.array([row_of.get(item, -1) for item in item_ids])
    if not (source >= 0).any():
        raise UserError(f"{ids.name} names none of the dataset's items (such as {item_ids[0]})")
    aligned = np.full((len(item_ids), array.shape[1]), np.nan, dtype=array.dtype)
    aligned[source >= 0] = array[source[source >= 0]]
    return aligned


def set_modality(
    folder: str | Path,
    modality: str,
    *,
    array: str | Path | None = None,
    ids: str | Path | None = None,
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
        array: a ``.npy`` or ``.pt`` file (see :func:`from_array` for ``ids``).
        text_encoder: encodes the texts in ``<name>.item`` (see
            :func:`dataset_prep.encoders.text.encode_texts`).
        image_features: Amazon's ``.b`` file.
        images: a folder of images, with ``image_encoder`` and ``image_weights``.

    Returns:
        the new card. The folder is replaced as a whole, or not at all.

    Raises:
        UserError: the folder is no prepared dataset, or the source is at fault.
    """
    folder = Path(folder)
    card = read_card(folder)
    check_modality_name(modality)
    if sum(source is not None for source in (array, text_encoder, image_features, images)) != 1:
        raise UserError("give one of --array, --text-encoder, --image-features and --images")
    items = read_items(folder, card["name"])
    stages = Stages(folder.parent, card["name"])
    sources: list[dict] = []
    if array is not None:
        values, made_by = from_array(array, items["item_id"], ids), f"as given in {Path(array).name}"
        sources = [describe_source(Path(array))] + ([describe_source(Path(ids))] if ids is not None else [])
    elif text_encoder is not None:
        from .encoders.text import encode_texts

        if "text" not in items:
            raise UserError(f"{card['name']}.item has no column text, so there is nothing to encode")
        values, made_by = encode_texts(items["text"], text_encoder, stages, width=text_width, seed=seed, batch=batch)
    elif image_features is not None:
        from .images_b import read_b_once

        values, _, source = read_b_once(image_features, items["item_id"], stages, max_bad)
        sources, made_by = [source], f"as given in {source['name']}"
    else:
        values, made_by = _from_images(images, image_encoder, image_weights, items["item_id"], stages, batch)
    facts = {"encoder": made_by} | ({"sources": sources} if sources else {})
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
    """Remove ``modality`` from the dataset in ``folder``; gives the new card.

    Raises:
        UserError: the folder is no prepared dataset, or has no such modality.
    """
    folder = Path(folder)
    card = read_card(folder)
    if modality not in card["modalities"]:
        known = ", ".join(card["modalities"]) or "none"
        raise UserError(f"{card['name']} has no modality {modality} (it has: {known})")
    with _replaced(folder) as new:
        (new / str(card["modalities"][modality]["file"])).unlink(missing_ok=True)
        _forget(card, modality)
        write_json(new / "dataset.json", card)
    return card


def _forget(card: dict, modality: str) -> None:
    old = card["modalities"].pop(modality, None)
    if old:
        card["files"].pop(old["file"], None)


def _from_images(
    images, image_encoder, image_weights, item_ids: list[str], stages: Stages, batch: int
) -> tuple[np.ndarray, str]:
    from .encoders.image import encode_images, load_encoder

    if image_encoder is None:
        raise UserError("--images needs --image-encoder (timm:MODEL or torchvision:MODEL)")
    if isinstance(image_encoder, str):
        image_encoder = load_encoder(image_encoder, image_weights)
    values, skips = encode_images(images, item_ids, image_encoder, stages, batch=batch)
    broken = skips.counts.total()
    return values, image_encoder.name + (f", {broken:,} broken images" if broken else "")


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A copy of a folder that takes its place at the end; unchanged files are links, not copies."""
    with atomic_folder(folder) as new:
        shutil.copytree(folder, new, symlinks=True, dirs_exist_ok=True, copy_function=_link)
        yield new


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)
