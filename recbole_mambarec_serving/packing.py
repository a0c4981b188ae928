"""Scoring as named arrays and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_serving.scoring import (
    Dense,
    Factors,
    FoldIn,
    Fused,
    InnerProducts,
    ItemWeights,
    Listed,
    OfSimilarUsers,
    Scoring,
    TopLists,
    WithColdUsers,
)

Arrays = dict[str, np.ndarray]


def pack(scoring: Scoring, prefix: str = "") -> tuple[dict[str, Any], Arrays]:
    """(plain values, arrays by name) from which :func:`unpack` makes the same again.

    Raises:
        TypeError: it is of no kind that a bundle can hold.
    """
    if isinstance(scoring, WithColdUsers):
        plain, arrays = pack(scoring.base, prefix)
        of = scoring.of_similar
        if of is None:
            return {**plain, "cold_users": "popularity"}, arrays
        arrays |= {f"{prefix}cold.popularity": _packable(scoring.popularity), f"{prefix}cold.rows": of.rows}
        return {**plain, "cold_users": "features"}, arrays | _of_sparse(of.scores, f"{prefix}cold.scores.")
    if isinstance(scoring, InnerProducts):
        names = {"users": scoring.users, "items": scoring.items}
        names |= {f"fold_in.{name}": array for name, array in scoring.function._asdict().items()}
        return {"kind": scoring.kind}, {f"{prefix}{name}": _packable(array) for name, array in names.items()}
    if isinstance(scoring, ItemWeights):
        arrays = {}
        for number, weights in enumerate(scoring.parts):
            arrays |= _of_weights(weights, f"{prefix}weights.{number}.")
        parts = [type(weights).__name__.lower() for weights in scoring.parts]
        return {"kind": scoring.kind, "parts": parts}, arrays
    if isinstance(scoring, TopLists):
        return {"kind": scoring.kind, "depth": scoring.depth}, _of_sparse(scoring.listed, f"{prefix}lists.")
    if isinstance(scoring, Fused):
        plain_parts, arrays = [], {}
        for number, part in enumerate(scoring.parts):
            plain, of_part = pack(part, f"{prefix}part.{number}.")
            plain_parts.append(plain)
            arrays |= of_part
        more = {"weights": scoring.weights, "normalisation": scoring.normalisation}
        return {"kind": scoring.kind, "parts": plain_parts, **more}, arrays
    raise TypeError(f"a bundle cannot hold {type(scoring).__name__}")


def unpack(
    plain: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    history: sp.csr_array,
    popularity: np.ndarray,
    name: str,
    prefix: str = "",
) -> Scoring:
    """The scoring that :func:`pack` was given.

    Args:
        history: training interactions, float32 ``(n_users, n_items)``.
        popularity: users of each item in training, ``(n_items,)``.
        name: of the model, for messages.

    Raises:
        KeyError: an array or a value is missing.
        ValueError: arrays do not fit the numbers of users and items, or the kind is unknown.
    """
    n_users, n_items = history.shape
    scoring: Scoring
    if plain["kind"] == InnerProducts.kind:
        users, items = arrays[f"{prefix}users"], arrays[f"{prefix}items"]
        function = FoldIn(*(arrays[f"{prefix}fold_in.{field}"] for field in FoldIn._fields))
        width = items.shape[1]
        _expect(users, (n_users, width))
        _expect(items, (n_items, width))
        for array, shape in zip(function, ((2 * width, width), (width,), (n_items,))):
            _expect(array, shape)
        scoring = InnerProducts(users, items, function)
    elif plain["kind"] == ItemWeights.kind:
        parts = [_weights(kind, arrays, f"{prefix}weights.{k}.", n_items) for k, kind in enumerate(plain["parts"])]
        scoring = ItemWeights(parts, history)
    elif plain["kind"] == TopLists.kind:
        scoring = TopLists(_sparse(arrays, f"{prefix}lists.", history.shape), int(plain["depth"]), name)
    elif plain["kind"] == Fused.kind:
        of_parts = [
            unpack(part, arrays, history, popularity, name, f"{prefix}part.{number}.")
            for number, part in enumerate(plain["parts"])
        ]
        scoring = Fused(of_parts, plain["weights"], plain["normalisation"], n_items)
    else:
        raise ValueError(f"scores of the kind '{plain['kind']}' are unknown")
    how, cold = plain.get("cold_users"), np.diff(history.indptr) == 0
    if how == "popularity":
        return WithColdUsers(scoring, cold, popularity.astype(np.float32))
    if how == "features":
        share, rows = arrays[f"{prefix}cold.popularity"], arrays[f"{prefix}cold.rows"]
        _expect(share, (n_items,))
        _expect(rows, (n_users,))
        n_rows = len(arrays[f"{prefix}cold.scores.indptr"]) - 1
        if rows.max(initial=-1) >= n_rows:
            raise ValueError("rows of users are missing")
        scores = _sparse(arrays, f"{prefix}cold.scores.", (n_rows, n_items))
        return WithColdUsers(scoring, cold, share, OfSimilarUsers(rows, scores))
    if how is not None:
        raise ValueError(f"scores of users without interactions of the kind '{how}' are unknown")
    return scoring


def _packable(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype.kind == "f" else None)


def _of_sparse(matrix: sp.csr_array, prefix: str) -> Arrays:
    matrix = sp.csr_array(matrix)
    parts = {"data": _packable(matrix.data), "indices": matrix.indices.astype(np.int32)}
    return {f"{prefix}{k}": v for k, v in {**parts, "indptr": matrix.indptr.astype(np.int64)}.items()}


def _sparse(arrays: Mapping[str, np.ndarray], prefix: str, shape: tuple[int, int]) -> sp.csr_array:
    parts = tuple(arrays[f"{prefix}{part}"] for part in ("data", "indices", "indptr"))
    matrix = sp.csr_array(parts, shape=shape)
    matrix.check_format(full_check=True)
    return matrix


def _of_weights(part: Factors | Listed | Dense, prefix: str) -> Arrays:
    if isinstance(part, Listed):
        return _of_sparse(part.matrix, prefix)
    return {f"{prefix}{name}": _packable(array) for name, array in part._asdict().items()}


def _weights(kind: str, arrays: Mapping[str, np.ndarray], prefix: str, n_items: int) -> Factors | Listed | Dense:
    if kind == "listed":
        return Listed(_sparse(arrays, prefix, (n_items, n_items)))
    if kind == "dense":
        matrix = arrays[f"{prefix}matrix"]
        _expect(matrix, (n_items, n_items))
        return Dense(matrix)
    source, target = arrays[f"{prefix}source"], arrays[f"{prefix}target"]
    for array in (source, target):
        _expect(array, (n_items, source.shape[1]))
    return Factors(source, target)


def _expect(array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"an array has the shape {array.shape} instead of {shape}")
