"""Small recommenders with embeddings drawn at random, and bundles of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_serving.bundle import write_bundle
from recbole_mambarec_serving.catalogue import Catalogue
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.scoring import FoldIn, InnerProducts

#: what a path, a query, a page or a log could take for something else
ODD_USERS = ("a/b", "/", "a b", "50%", "50%25", "a?k=1#x", "a/../b", "übung", "日本/語", "'\"<b>&", "a\\b", "~", "+1")
ODD_TITLE = "<img src=x onerror=\"document.title='run'\"> & </script>"


def made(
    n_users: int = 40, n_items: int = 60, width: int = 8, seed: int = 0, name: str = "Made", images: str = ""
) -> Recommender:
    """A recommender whose ids include :data:`ODD_USERS`, for items, too; the first item has :data:`ODD_TITLE`.

    Args:
        images: the address of the image of each item, with ``{}`` for its number; by default the first has one.
    """
    draw = np.random.default_rng(seed)
    users = [*ODD_USERS, *(f"u{n}" for n in range(n_users))][:n_users]
    items = [*ODD_USERS, *(f"i{n}" for n in range(n_items))][:n_items]
    seen = sp.csr_array((draw.random((n_users, n_items)) < min(0.1, 20 / n_items)).astype(np.uint8))
    popularity = np.bincount(seen.indices, minlength=n_items)
    titles: list[str | None] = [f"The item {n}" for n in range(n_items)]
    titles[0], titles[1] = ODD_TITLE, None
    addresses: list[str | None] = [images.format(n) if images else None for n in range(n_items)]
    addresses[0] = addresses[0] or "https://images.example.com/0.png"
    embeddings = draw.normal(size=(n_users + n_items, width)).astype(np.float32)
    weights = draw.normal(size=(2 * width, width)).astype(np.float32)
    fold_in = FoldIn(weights, np.zeros(width, np.float32), np.sqrt(np.maximum(popularity, 1)).astype(np.float32))
    scoring = InnerProducts(embeddings[:n_users], embeddings[n_users:], fold_in)
    has = {"image": draw.random(n_items) < 0.8, "text": np.ones(n_items, dtype=bool)}
    return Recommender(
        name, scoring, Ids("user", users), Catalogue(Ids("item", items), titles, addresses, popularity, has), seen
    )


def write(path: Path, **options) -> Path:
    """A bundle of :func:`made`."""
    return write_bundle(path, made(**options), {"licence": "none"}, "# Made\n")
