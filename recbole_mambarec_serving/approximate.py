"""An index for the approximate search of the items with the largest inner products; needs the extra ``[ann]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need
from recbole_mambarec_serving.ranking import largest
from recbole_mambarec_serving.scoring import InnerProducts, Scoring

EXTRA = "ann"
# of the graph of neighbours (HNSW): links per item, and how widely it is searched when built and when asked
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 200, 128
_CHECKED_USERS, _CHECKED_K = 1000, 20


class ItemIndex:
    """A graph of nearest neighbours (faiss, HNSW) over the items of a model that ranks by embeddings.

    Largest inner products become smallest distances by one more dimension, with which all items have the same length
    ("Speeding Up the Xbox Recommender System Using a Euclidean Transformation", RecSys 2014). What the index finds is
    ranked by exact scores.

    Args:
        index: faiss's.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        index.hnsw.efSearch = _SEARCH_WIDTH

    @classmethod
    def of(cls, scoring: Scoring, name: str) -> ItemIndex:
        """Build one.

        Args:
            name: of the model, for messages.

        Raises:
            UserError: the model does not rank by embeddings, or faiss is missing.
        """
        faiss = need("faiss", EXTRA, "or export without --ann")
        if not isinstance(scoring, InnerProducts):
            raise UserError(f"{name} does not rank by embeddings, which an index could search: export without --ann")
        squares = np.square(scoring.items).sum(axis=1)
        more = np.sqrt(np.maximum(squares.max() - squares, 0.0))[:, None]
        index = faiss.IndexHNSWFlat(scoring.items.shape[1] + 1, _LINKS)
        index.hnsw.efConstruction = _BUILD_WIDTH
        index.add(np.concatenate([scoring.items, more], axis=1).astype(np.float32))
        return cls(index)

    @classmethod
    def read(cls, path: Path) -> ItemIndex:
        """The index in a file that :meth:`write` has written."""
        return cls(need("faiss", EXTRA).read_index(str(path)))

    def write(self, path: Path) -> None:
        """Write it to a file."""
        need("faiss", EXTRA).write_index(self._index, str(path))

    def candidates(self, users: np.ndarray, n: int) -> np.ndarray:
        """Columns of about the ``n`` items with the largest inner products, int64 ``(B, n)``; -1 for none.

        Args:
            users: embeddings, float32 ``(B, d)``.
        """
        self._index.hnsw.efSearch = max(_SEARCH_WIDTH, 2 * n)
        return self._index.search(np.pad(users, ((0, 0), (0, 1))), n)[1]

    def ranked(
        self, scoring: InnerProducts, rows: np.ndarray, k: int, seen: sp.csr_array | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of users, about, as :func:`~recbole_mambarec_serving.ranking.largest` returns them.

        Args:
            rows: of the users, ``(B,)``.
            seen: what is left out, ``(B, n_items)``.
        """
        n_items = len(scoring.items)
        more = 0 if seen is None else int(np.diff(seen.indptr).max(initial=0))
        users = scoring.users[rows]
        # in the order of the catalogue, as equal scores are ranked
        found = np.sort(self.candidates(users, min(k + more, n_items)), axis=1)
        scores = np.einsum("bd,bnd->bn", users, scoring.items[found])
        scores[found < 0] = -np.inf
        if seen is not None:
            taken = np.repeat(np.arange(len(rows)), np.diff(seen.indptr)) * n_items + seen.indices
            scores[np.isin(np.arange(len(rows))[:, None] * n_items + found, taken[seen.data > 0])] = -np.inf
        places, values = largest(scores, k)
        return np.where(places < 0, -1, np.take_along_axis(found, np.maximum(places, 0), axis=1)), values

    def described(self, scoring: Scoring) -> dict[str, Any]:
        """For the card: what the index is, and its recall against exact search, for a sample of users."""
        assert isinstance(scoring, InnerProducts)
        k, n_users = min(_CHECKED_K, len(scoring.items)), len(scoring.users)
        rows = np.sort(np.random.default_rng(0).permutation(n_users)[:_CHECKED_USERS])
        hits = 0
        for block in np.array_split(rows, max(1, len(rows) // 100)):
            exact = largest(scoring.scores(block), k)[0]
            about = self.ranked(scoring, block, k, None)[0]
            hits += sum(len({*a} & {*b}) for a, b in zip(exact.tolist(), about.tolist()))
        return {
            "index": f"faiss HNSW, {_LINKS} links, search width {_SEARCH_WIDTH}",
            # of the whole catalogue where it has fewer items
            f"recall@{_CHECKED_K}": hits / (k * len(rows)),
            "users": len(rows),
        }
