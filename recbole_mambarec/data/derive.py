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

# raise it when a recipe changes what it computes
_RECIPES_VERSION = 1


def derive_modality(name: str, recipe: dict, item_file: Path, layout: Layout, cache: ArrayCache) -> Modality:
    """Compute (or read back) modality ``name`` from ``item_file``.

    Args:
        recipe: ``kind`` is ``tfidf`` (TF-IDF of the words of ``fields``, reduced to ``dim`` by truncated SVD) or
            ``category`` (multi-hot of the values of ``fields``; ``numeric`` fields are standardised and appended).
        layout: how ``item_file`` is written.
        cache: keeps the array under the file's hash, how it is read, and the recipe.

    Raises:
        UserError: unknown kind, or a field that the file does not have.
    """
    tokens = item_tokens(item_file, layout)
    kind = recipe.get("kind")
    if kind not in _RECIPES:
        raise UserError(f"derive_modalities: kind '{kind}' of '{name}' is unknown, use one of {', '.join(_RECIPES)}")
    read_as = [layout.separator, layout.encoding]
    key = {"file": sha256_file(item_file), "read_as": read_as, "recipe": recipe, "version": _RECIPES_VERSION}

    def build() -> dict[str, np.ndarray]:
        table = read_atomic(item_file, layout)
        unknown = [f for f in [*recipe.get("fields", []), *recipe.get("numeric", [])] if f not in table]
        if unknown:
            raise UserError(f"{item_file} has no column '{unknown[0]}' that modality '{name}' is to be derived from")
        return {"matrix": _RECIPES[kind](table, recipe)}

    matrix = cache.get(f"modality-{name}", key, build)["matrix"]
    return Modality(name, matrix, tokens, source=f"modality '{name}' derived from {item_file}")


def _tfidf(table: pd.DataFrame, recipe: dict) -> np.ndarray:
    # scikit-learn is imported where it is used: it costs a second that most runs do not need
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
        known = np.isfinite(number)
        spread = number[known].std() if known.any() else 0.0
        centred = np.zeros(len(number))
        if spread > 0:
            centred[known] = (number[known] - number[known].mean()) / spread
        columns.append(centred[:, None])
    return np.hstack(columns).astype(np.float32)


_RECIPES = {"tfidf": _tfidf, "category": _category}
