"""Modalities derived from the columns of a ``.item`` file, for datasets that come without feature arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.cache import ArrayCache
from recbole_mambarec.data.folder import item_tokens, read_atomic
from recbole_mambarec.data.modality import Modality
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.files import sha256_file

# to be raised when a recipe computes something else
_RECIPES_VERSION = 1


def derive_modality(name: str, recipe: dict, item_file: Path, layout: Layout, cache: ArrayCache) -> Modality:
    """Compute (or read back) modality ``name`` from ``item_file``.

    Args:
        recipe: ``kind`` is ``tfidf`` (TF-IDF of the words of ``fields``, reduced to ``dim`` by truncated SVD) or
            ``category`` (multi-hot of the values of ``fields``; ``numeric`` fields are standardised and appended).
        layout: how ``item_file`` is written.
        cache: keeps the array, under the hash of the file, its layout and the recipe.

    Raises:
        UserError: the kind is unknown, or the file does not have one of the fields.
    """
    tokens = item_tokens(item_file, layout)
    kind = recipe.get("kind")
    if kind not in _RECIPES:
        raise UserError(f"derive_modalities: kind '{kind}' of '{name}' is unknown: use one of {', '.join(_RECIPES)}")
    read_as = [layout.separator, layout.encoding]
    key = {"file": sha256_file(item_file), "read_as": read_as, "recipe": recipe, "version": _RECIPES_VERSION}

    def build() -> dict[str, np.ndarray]:
        table = read_atomic(item_file, layout)
        unknown = [f for f in [*recipe.get("fields", []), *recipe.get("numeric", [])] if f not in table]
        if unknown:
            raise UserError(f"{item_file} has no column '{unknown[0]}', from which modality '{name}' is to be derived")
        return {"matrix": _RECIPES[kind](table, recipe)}

    matrix = cache.get(f"modality-{name}", key, build)["matrix"]
    return Modality(name, matrix, tokens, source=f"modality '{name}' derived from {item_file}")


def _tfidf(table: pd.DataFrame, recipe: dict) -> np.ndarray:
    # imported here because it takes a second, and most runs do not need it
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = table[list(recipe["fields"])].agg(" ".join, axis=1)
    weights = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode").fit_transform(texts)
    dim = min(int(recipe.get("dim", 64)), min(weights.shape) - 1)
    return TruncatedSVD(dim, random_state=0).fit_transform(weights).astype(np.float32)


def _category(table: pd.DataFrame, recipe: dict) -> np.ndarray:
    from sklearn.feature_extraction.text import CountVectorizer

    columns = []
    if recipe.get("fields"):
        values = table[list(recipe["fields"])].agg(" ".join, axis=1)
        hot = CountVectorizer(binary=True, token_pattern=r"\S+", lowercase=False).fit_transform(values)
        columns.append(hot.toarray())
    for field in recipe.get("numeric", []):
        number = pd.to_numeric(table[field], errors="coerce").to_numpy(dtype=np.float64)
        finite = np.isfinite(number)
        spread = number[finite].std() if finite.any() else 0.0
        centred = np.zeros(len(number))
        if spread > 0:
            centred[finite] = (number[finite] - number[finite].mean()) / spread
        columns.append(centred[:, None])
    return np.hstack(columns).astype(np.float32)


_RECIPES = {"tfidf": _tfidf, "category": _category}
