"""The key ``missing_modalities``: which items lack which modalities, for the dataset at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.config import Config

from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.cache import default_cache_folder
from recbole_mambarec.data.fingerprint import hashed_file
from recbole_mambarec.data.folder import item_tokens, modality_files, read_atomic
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.card import read_card
from recbole_mambarec_common.masks import (
    DEFAULT_SEED,
    Mask,
    Rule,
    draw,
    items_key,
    mask_key,
    popularity_groups,
    read_mask,
    write_mask,
)


def accept(value: object, folder: Path) -> object:
    """The value of the key in the form in which it is recorded, so that equal masks have equal values.

    A rule is a mapping of what differs from the defaults, or only its rate; a file is a mapping with the hash of its
    contents, which belongs to the key of a run.

    Args:
        value: a rate, the path of a file (here or in the dataset's folder), or a mapping with one of the two.
        folder: of the dataset.

    Raises:
        UserError: there is no such file, or its contents are not those whose hash is given.
    """
    if value is None or isinstance(value, (int, float)):
        return value
    given = dict(value) if isinstance(value, Mapping) else {"file": os.fspath(value)}  # type: ignore[call-overload]
    if "rate" in given:
        rule = _rule(given)
        more = ({"kinds": list(rule.kinds)} if rule.kinds else {}) | (
            {"seed": rule.seed} if rule.seed != DEFAULT_SEED else {}
        )
        return {"rate": rule.rate, **more} if more else rule.rate
    return hashed_file("missing_modalities", given, folder)


def hidden_items(
    config: Config, folder: Path, name: str, items: np.ndarray | Sequence[str], modalities: Sequence[str]
) -> Mask | None:
    """Which rows of the ``.item`` file each modality is hidden from; None if the key is unset or hides nothing.

    A mask that is drawn is kept beside the dataset (in the cache for a dataset that is not prepared) and read back.

    Args:
        items: ids in the order of the ``.item`` file.
        modalities: all that the dataset has.

    Raises:
        UserError: the mask is of other data, or hides everything.
    """
    value = config["missing_modalities"]
    if value is None:
        return None
    items = [str(item) for item in items]
    if isinstance(value, Mapping) and "file" in value:
        what = hashed_file("missing_modalities", value, folder)["file"]
        mask = read_mask(what, items, modalities, numbered=is_numbered(folder))
    else:
        rule = _rule(value)
        if rule.rate == 0:
            getLogger().info("missing_modalities: rate 0 hides nothing, every item keeps what it has")
            return None
        if rule.rate == 1:
            getLogger().info("missing_modalities: rate 1 leaves no item with all of its modalities")
        mask = _drawn(rule, config, folder, name, items, modalities)
        what = _name_of(rule)
    _check_something_is_left(mask, what)
    return mask


def _name_of(rule: Rule) -> str:
    return f"missing_modalities ({rule})"


def _check_something_is_left(mask: Mask, what: str) -> None:
    if mask and all(hidden.all() for hidden in mask.values()):
        raise UserError(
            f"{what} hides every modality of every item, which leaves nothing to learn from features: lower the rate, "
            "or set modalities to [] for ids alone"
        )


def hidden_in_folder(config: Config, folder: Path, name: str) -> Mask | None:
    """:func:`hidden_items` of a dataset in its folder, whatever a run reads of it; None too if it has no features.

    Raises:
        UserError: see :func:`hidden_items`.
    """
    modalities = all_modalities(config, modality_files(folder, name))
    if config["missing_modalities"] is None or not modalities:
        return None
    return hidden_items(config, folder, name, item_tokens(folder / f"{name}.item", Layout.of(config)), modalities)


def all_modalities(config: Config, arrays: Mapping[str, Path]) -> list[str]:
    """The modalities of a dataset, which a rule is drawn over: whatever a run uses, the mask is the same."""
    return [*arrays, *(recipe for recipe in config["derive_modalities"] or {} if recipe not in arrays)]


def _rule(value: object) -> Rule:
    if not isinstance(value, Mapping):
        return Rule(float(value))  # type: ignore[arg-type]
    kinds = value.get("kinds")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    seed = value.get("seed")
    return Rule(float(value["rate"]), tuple(kinds) if kinds else None, DEFAULT_SEED if seed is None else seed)


def _drawn(
    rule: Rule, config: Config, folder: Path, name: str, items: Sequence[str], modalities: Sequence[str]
) -> Mask:
    parts = config["benchmark_filename"]
    file = folder / (f"{name}.{parts[0]}.inter" if parts else f"{name}.inter")
    counts = training_counts(file, Layout.of(config), items)
    made_from = f"{items_key(items)} {hashlib.sha256(counts.tobytes()).hexdigest()} {list(modalities)} {rule!r}"
    file_name = f"{name}.mask-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}.csv"
    prepared = read_card(folder) is not None or bool(modality_files(folder, name))
    path = (folder if prepared else Path(config["cache_dir"] or default_cache_folder())) / file_name
    if path.is_file():
        return read_mask(path, items, modalities, drawn=True)
    mask = draw(rule, modalities, popularity_groups(counts))
    if not any(hidden.any() for hidden in mask.values()):
        raise UserError(
            f"missing_modalities: the rate {rule.rate} of {len(items)} items hides nothing: give a higher rate, or 0"
        )
    _check_something_is_left(mask, _name_of(rule))
    try:
        write_mask(path, mask, items, str(rule))
    except OSError as error:
        getLogger().warning(f"the mask could not be kept in {path.parent} ({error.strerror}): it is drawn again")
    getLogger().info(f"missing_modalities ({rule}): drawn, fingerprint {mask_key(mask)}, kept in {path}")
    return mask


def training_counts(file: Path, layout: Layout, items: Sequence[str]) -> np.ndarray:
    """Interactions of each item in an interaction file, int64 ``(n_items,)``.

    Raises:
        UserError: there is no such file, or it is no table with this layout.
    """
    try:
        used = read_atomic(file, layout)[layout.item]
    except FileNotFoundError:
        raise UserError(f"there is no file {file}, by which items would be divided into popular and others") from None
    return pd.Series(used).value_counts().reindex(pd.Index(items), fill_value=0).to_numpy(dtype=np.int64)


def is_numbered(folder: Path) -> bool:
    """Whether the source of a dataset numbered its items, whose order the ``.item`` file has."""
    split = (read_card(folder) or {}).get("split")
    return isinstance(split, dict) and str(split.get("method")).startswith("from the source")
