"""What the files of a dataset say about its items: titles, pictures, features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from recbole.data.dataset import Dataset

from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.folder import item_tokens, modality_files, read_atomic
from recbole_mambarec.data.modality import ItemFeatures, Modality
from recbole_mambarec.scoring.splits import Splits
from recbole_mambarec_serving.catalogue import Catalogue
from recbole_mambarec_serving.features import unit

# names of columns, in lower case, the first that there is; else one that ends so
_TITLES, _TITLE_ENDS = ("title", "name"), ("title", "name")
_IMAGES, _IMAGE_ENDS = ("image_url", "image", "imurl", "img_url"), ("image_url", "image", "picture", "poster")


def catalogue_of(splits: Splits, features: Mapping[str, ItemFeatures]) -> Catalogue:
    """The items of a run, in the order of its columns.

    Titles and pictures are columns of the ``.item`` file whose names say so; a picture counts if it has an address on
    the web.

    Args:
        features: of the items, by modality, with RecBole's padding row.
    """
    table = _item_file(splits.dataset)
    titles = _column(table, _TITLES, _TITLE_ENDS)
    images = _column(table, _IMAGES, _IMAGE_ENDS)
    tokens = splits.items.tokens.tolist()
    return Catalogue(
        splits.items,
        None if titles is None else [titles.get(token) or None for token in tokens],
        None if images is None else [_address(images.get(token)) for token in tokens],
        splits.interactions("train").sum(axis=0).astype(np.int64),
        {modality: each.present[1:] for modality, each in features.items()},
    )


def _item_file(dataset: Dataset) -> dict[str, dict[str, str]]:
    """Column -> raw id -> text, of the ``.item`` file; empty if there is none."""
    path, layout = Path(dataset.dataset_path) / f"{dataset.dataset_name}.item", Layout.of(dataset.config)
    if not path.is_file():
        return {}
    table = read_atomic(path, layout)
    ids = table[layout.item].tolist()
    return {name: dict(zip(ids, table[name].tolist())) for name in table if name != layout.item}


def _column(table: Mapping[str, dict], names: tuple[str, ...], ends: tuple[str, ...]) -> dict[str, str] | None:
    by_name = {name.lower(): column for name, column in table.items()}
    for name in (*names, *(each for end in ends for each in by_name if each.endswith(end))):
        if name in by_name:
            return by_name[name]
    return None


def _address(text: str | None) -> str | None:
    return text if text and text.startswith(("https://", "http://")) else None


def item_features(dataset: Dataset) -> dict[str, ItemFeatures]:
    """Features by modality, with RecBole's padding row: those that the model reads, else all that the folder has."""
    loaded = getattr(dataset, "item_features", None)
    if loaded:
        return dict(loaded)
    folder, name = Path(dataset.dataset_path), dataset.dataset_name
    arrays, item_file = modality_files(folder, name), folder / f"{name}.item"
    if not arrays or not item_file.is_file():
        return {}
    tokens, places = item_tokens(item_file, Layout.of(dataset.config)), dataset.field2token_id[dataset.iid_field]
    limit = dataset.config["feature_memory"]
    memory = math.inf if limit is None else limit * 2**20
    return {
        m: Modality.load(m, path, tokens).align(places, dataset.item_num, memory, None) for m, path in arrays.items()
    }


class ModelFeatures:
    """Features of a run, as :class:`~recbole_mambarec_serving.features.Features`.

    Args:
        features: by modality, with RecBole's padding row.
    """

    def __init__(self, features: Mapping[str, ItemFeatures]) -> None:
        self._features = features
        self.widths = {modality: int(each.matrix.shape[1]) for modality, each in features.items()}

    def rows(self, modality: str, start: int, stop: int) -> np.ndarray:
        """See :meth:`~recbole_mambarec_serving.features.Features.rows`."""
        each = self._features[modality]
        return unit(each.items[start:stop] * each.present[1:][start:stop, None])
