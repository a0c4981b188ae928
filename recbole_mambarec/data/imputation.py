"""The key ``impute_missing``: what models are given for an item that lacks a modality.

A method sees feature rows, presence and training interactions, nothing else. What it finds is kept on disk under a key
of all three. An item for which it finds rows takes part in the feature graphs; one for which it finds none keeps the
mean and stays out of them. No row is ever NaN, and nothing of the size of items x items is held.

=====================  ===============================================================================================
``mean`` (default)     the mean of the items that have the modality; the item stays out of the feature graphs
``zero``               zeros; the item stays out of the feature graphs, because a zero row is similar to nothing
``neighbours``         :func:`from_neighbours`, by the modalities that the item has
``propagate``          :func:`propagated` over shared users
``knn-interactions``   :func:`from_interactions`, by shared users
``drop``               another name of ``mean``: the item is dropped from the feature graphs
``learned``            the model generates what is missing (DGMRec)
=====================  ===============================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from logging import getLogger
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.neighbours import LargestSoFar, unit_rows
from recbole_mambarec.data.graphs.sparse import inverse_sqrt, largest_entries, product_blocks
from recbole_mambarec.data.modality import ItemFeatures
from recbole_mambarec.data.rows import Rows, blocks
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError

#: part of the cache key: raise it when a method computes something else
IMPUTATION_VERSION = 3
LEARNED = "learned"
# values held at a time by a search (64 MiB of float32) and by the propagation
_BLOCK_VALUES = 1 << 24
# steps (or as many as there are rows) and relative size of the remainder at which propagation counts as settled
_MOST_STEPS, _SETTLED = 500, 1e-6


class Found(NamedTuple):
    """Rows for items that lack a modality.

    Attributes:
        items: for which there is a row, ascending, ``(m,)``.
        rows: float32, ``(m, dim)``.
    """

    items: np.ndarray
    rows: np.ndarray


def accept(value: object, model: str, generates: bool) -> object:
    """The value of the key in the form in which it is recorded: None for what is computed where it is unset.

    Args:
        generates: whether the model generates missing features, which is what it does where the key is unset.

    Raises:
        UserError: the model is to generate features and cannot.
    """
    if value == LEARNED and not generates:
        raise UserError(f"impute_missing 'learned': {model} does not generate missing features, choose another method")
    value = "mean" if value == "drop" else value
    return None if value == (LEARNED if generates else "mean") else value


def imputed(data: TrainingData, method: str | None, k: int) -> TrainingData:
    """``data`` with the rows that ``method`` finds for items that lack a modality.

    Args:
        method: a line of the table above; None is the mean.
        k: how many items a row is a mean of (``neighbours``, ``knn-interactions``).
    """
    incomplete = [m for m in data.modalities if not data.present(m).all()]
    if method in (None, "mean", "drop", LEARNED) or not incomplete:
        return data
    features = {}
    for modality in incomplete:
        absent = np.flatnonzero(~data.present(modality))
        if method == "zero":
            zeros = np.zeros((len(absent), data.features(modality).shape[1]), dtype=np.float32)
            features[modality] = _with_rows(data, modality, Found(absent, zeros), joins=False)
            continue
        key = {"method": method, "modality": modality, "k": int(k), "version": IMPUTATION_VERSION}
        build = functools.partial(_arrays, _METHODS[method], data, modality, int(k))
        found = Found(**data.kept("imputation", key, build, of_interactions=method != "neighbours"))
        if len(found.items) < len(absent):
            getLogger().info(
                f"impute_missing '{method}' finds nothing for {len(absent) - len(found.items)} of the {len(absent)} "
                f"items that lack {modality}: they have the mean, and are left out of graphs"
            )
        features[modality] = _with_rows(data, modality, found, joins=True)
    filled = data.with_features(features)
    filled.is_imputed = True
    return filled


def _arrays(find: Callable[..., Found], *args) -> dict[str, np.ndarray]:
    return find(*args)._asdict()


def _with_rows(data: TrainingData, modality: str, found: Found, joins: bool) -> ItemFeatures:
    """The features of a modality with the rows that were found; ``joins``: these items count as having it."""
    before = data.padded_features(modality)
    places, present = found.items + 1, before.present.copy()
    present[places] |= joins
    if not isinstance(before.matrix, np.ndarray):
        return ItemFeatures(modality, before.matrix.with_rows(places, found.rows), present)
    matrix = before.matrix.copy()
    matrix[places] = found.rows
    return ItemFeatures(modality, matrix, present)


# ------------------------------------------------------------------------------------------------------------
# methods


def _of_neighbours(data: TrainingData, modality: str, k: int) -> Found:
    others = [m for m in data.modalities if m != modality]
    features = {m: data.features(m) for m in data.modalities}
    return from_neighbours(features, {m: data.present(m) for m in data.modalities}, modality, others, k)


def from_neighbours(
    features: Mapping[str, Rows], present: Mapping[str, np.ndarray], modality: str, others: list[str], k: int
) -> Found:
    """The mean of the ``k`` most similar items that have the modality (:func:`nearest_by_features`).

    Args:
        features: modality -> float32 rows, ``(n_items, dim)``.
        present: modality -> which items have it, bool ``(n_items,)``.
        modality: the one that is lacking.
        others: the modalities by which items are compared.
    """
    by = {m: features[m] for m in others}
    found = nearest_by_features(by, present, ~present[modality], present[modality], k)
    return Found(found.items, _means(features[modality], found.nearest))


class Nearest(NamedTuple):
    """The items that are most similar to some items.

    Attributes:
        items: ascending, ``(m,)``.
        nearest: most similar first, ``(m, k)``; -1 where there are fewer than k, after the others.
    """

    items: np.ndarray
    nearest: np.ndarray


def nearest_by_features(
    features: Mapping[str, Rows], present: Mapping[str, np.ndarray], wanted: np.ndarray, donors: np.ndarray, k: int
) -> Nearest:
    """The ``k`` donors that are most similar to each wanted item.

    The similarity of two items is the sum of their cosines in the modalities that both have. Those that share none are
    not similar; an item that shares none with any donor is left out. All items are compared, in blocks.

    Args:
        features: modality -> float32 rows, ``(n_items, dim)``, of the modalities to compare by.
        present: modality -> which items have it, bool ``(n_items,)``.
        wanted, donors: the items, bool ``(n_items,)``.
    """
    has_any = np.any([present[m] for m in features], axis=0) if features else np.zeros_like(wanted)
    of, among = np.flatnonzero(wanted & has_any), np.flatnonzero(donors)
    if len(among) == 0:
        of = of[:0]
    width = max((rows.shape[1] for rows in features.values()), default=1)
    step = max(1, min(int(_BLOCK_VALUES**0.5), _BLOCK_VALUES // width))
    nearest = np.empty((len(of), min(k, len(among))), dtype=np.int64)
    presence = (
        torch.from_numpy(np.stack([present[m] for m in features], axis=1).astype(np.float32)) if len(of) else None
    )
    for start in range(0, len(of), step):
        place = slice(start, start + step)
        mine = [_unit(rows, present[m], of[place]) for m, rows in features.items()]
        best = LargestSoFar(len(of[place]), k)
        for first in range(0, len(among), step):
            others = among[first : first + step]
            theirs = (_unit(rows, present[m], others) for m, rows in features.items())
            similarity = functools.reduce(torch.add, (a @ b.T for a, b in zip(mine, theirs)))
            shared = presence[of[place]] @ presence[others].T
            best.add(similarity.masked_fill_(shared == 0, -torch.inf), first)
        nearest[place] = np.where(best.values.numpy() > -np.inf, among[best.columns.numpy()], -1)
    found = (nearest >= 0).any(axis=1)
    return Nearest(of[found], nearest[found])


def _unit(rows: Rows, present: np.ndarray, index: np.ndarray) -> torch.Tensor:
    """Rows divided by their lengths, zero for items that lack the modality."""
    return unit_rows(np.where(present[index, None], rows[index], 0.0))


def _means(rows: Rows, lists: np.ndarray) -> np.ndarray:
    """The mean of the rows in each list, ``(n, k)`` -> ``(n, dim)``; -1 is no row."""
    found = np.empty((len(lists), rows.shape[1]), dtype=np.float32)
    step = max(1, _BLOCK_VALUES // max(lists.shape[1] * rows.shape[1], 1))
    for start in range(0, len(lists), step):
        part = lists[start : start + step]
        exists = (part >= 0)[:, :, None]
        taken = rows[np.maximum(part, 0).ravel()].reshape(*part.shape, -1)
        found[start : start + step] = taken.mean(axis=1, where=exists)
    return found


def _of_interactions(data: TrainingData, modality: str, k: int) -> Found:
    return from_interactions(_interactions(data), data.features(modality), data.present(modality), k)


def from_interactions(matrix: sp.csr_array, features: Rows, present: np.ndarray, k: int) -> Found:
    """The mean of the ``k`` items that have the modality and are most similar by their users.

    The similarity is the cosine of two items' columns of ``matrix``; only items that share a user count.

    Args:
        matrix: binary training interactions, ``(n_users, n_items)``.
        features: float32 rows, ``(n_items, dim)``.
        present: which items have the modality, bool ``(n_items,)``.
    """
    users_of = matrix.T.tocsr()
    popularity = np.diff(users_of.indptr)
    scaled = (matrix @ sp.diags_array(np.where(present, inverse_sqrt(popularity), 0.0))).tocsr()
    scaled.eliminate_zeros()
    wanted = np.flatnonzero(~present & (popularity > 0))
    lists: list[np.ndarray] = []
    rows_of_lists: list[np.ndarray] = []
    for start, shared in product_blocks(users_of[wanted], scaled, _BLOCK_VALUES):
        rows, columns = shared.coords
        kept = largest_entries(rows, columns, shared.data, k)
        rows_of_lists.append(rows[kept] + start)
        lists.append(columns[kept])
    if not lists:
        return Found(wanted[:0], np.empty((0, features.shape[1]), dtype=np.float32))
    positions, donors = np.concatenate(rows_of_lists), np.concatenate(lists)
    weights = sp.csr_array((np.ones(len(donors)), (positions, donors)), shape=(len(wanted), len(present)))
    sizes = np.diff(weights.indptr)
    found = sizes > 0
    sums = _product(sp.diags_array(1.0 / sizes[found]) @ weights[found], features)
    return Found(wanted[found], sums.astype(np.float32))


def _product(weights: sp.csr_array, rows: Rows) -> np.ndarray:
    """``weights`` times ``rows``, float64, reading the rows in blocks."""
    columns = weights.tocsc()
    total = np.zeros((weights.shape[0], rows.shape[1]))
    for place, block in blocks(rows):
        total += columns[:, place] @ block.astype(np.float64)
    return total


def _of_propagation(data: TrainingData, modality: str, k: int) -> Found:
    return propagated(_interactions(data), data.features(modality), data.present(modality))


def propagated(matrix: sp.csr_array, features: Rows, present: np.ndarray) -> Found:
    """Rows that spread over the graph of items that share users until they settle; rows that are there stay.

    Every missing row becomes the mean of the rows of the items with which it shares users, weighed by how many they
    share, so that it lies within their range (the published completion weighs by ``1 / sqrt(d_i d_j)``, by which rows
    of popular items would be longer). The rows at which this settles are the solution of linear equations, found by
    conjugate gradients. An item that no chain of shared users links to one that has the modality gets no row.

    Args:
        matrix: binary training interactions, ``(n_users, n_items)``.
        features: float32 rows, ``(n_items, dim)``.
        present: which items have the modality, bool ``(n_items,)``.
    """
    n_users, n_items = matrix.shape
    nodes = sp.block_array([[None, matrix], [matrix.T, None]], format="csr")
    _, component = connected_components(nodes, directed=False)
    linked = np.isin(component[n_users:], component[n_users:][present])
    wanted = np.flatnonzero(~present & linked)
    dim = features.shape[1]
    rows = np.empty((len(wanted), dim), dtype=np.float32)
    if len(wanted) == 0:
        return Found(wanted, rows)
    # items that share users: R^T R without its diagonal, which is never computed
    to_users, from_users = matrix[:, wanted].tocsr(), matrix[:, wanted].T.tocsr()
    popularity = np.diff(matrix.tocsc().indptr).astype(np.float64)
    degrees = (matrix.T @ (matrix @ np.ones(n_items)) - popularity)[wanted][:, None]
    own = popularity[wanted][:, None]
    given = matrix @ sp.diags_array(present.astype(np.float64))
    step = max(1, _BLOCK_VALUES // (n_users + n_items))
    for start in range(0, dim, step):
        columns = slice(start, start + step)
        right = from_users @ _columns_product(given.tocsr(), features, columns)
        rows[:, columns] = _conjugate_gradients(
            lambda x: degrees * x + own * x - from_users @ (to_users @ x), right, degrees
        )
    return Found(wanted, rows)


def _columns_product(weights: sp.csr_array, rows: Rows, columns: slice) -> np.ndarray:
    """:func:`_product` of some columns of the rows."""
    of_rows = weights.tocsc()
    total: np.ndarray | float = 0.0
    for place, block in blocks(rows):
        total = total + of_rows[:, place] @ block[:, columns].astype(np.float64)
    return np.asarray(total)


def _conjugate_gradients(
    times: Callable[[np.ndarray], np.ndarray], right: np.ndarray, diagonal: np.ndarray
) -> np.ndarray:
    """The solution x of ``times(x) = right``, column by column, for a symmetric positive definite matrix.

    Args:
        right: float64, ``(n, columns)``.
        diagonal: what the remainder is divided by, ``(n, 1)``.
    """
    x = np.zeros_like(right)
    remainder = right.copy()
    scaled = remainder / diagonal
    direction = scaled
    size = (remainder * scaled).sum(axis=0)
    goal = _SETTLED**2 * size
    for _ in range(max(_MOST_STEPS, len(right))):
        if (size <= goal).all():
            break
        image = times(direction)
        curvature = (direction * image).sum(axis=0)
        # columns that have settled do not move any more
        length = np.divide(size, curvature, out=np.zeros_like(size), where=(curvature > 0) & (size > goal))
        x += length * direction
        remainder -= length * image
        scaled = remainder / diagonal
        before, size = size, (remainder * scaled).sum(axis=0)
        direction = scaled + np.divide(size, before, out=np.zeros_like(size), where=before > 0) * direction
    if (size > goal).any():
        getLogger().warning("impute_missing: propagate has not settled, so that some filled-in features are inexact")
    return x


def _interactions(data: TrainingData) -> sp.csr_array:
    return sp.csr_array(interaction_matrix(data.users, data.items, data.n_users, data.n_items)).astype(np.float64)


_METHODS: dict[str, Callable[[TrainingData, str, int], Found]] = {
    "neighbours": _of_neighbours,
    "propagate": _of_propagation,
    "knn-interactions": _of_interactions,
}
#: all values of the key
METHODS = ("mean", "zero", *_METHODS, "drop", LEARNED)
