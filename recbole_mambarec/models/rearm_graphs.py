"""Item and user graphs of REARM: similar content, and shared interactions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.data.graphs.approximate import APPROXIMATE_VERSION, approximate_neighbours
from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences
from recbole_mambarec.data.graphs.neighbours import NEIGHBOURS_VERSION, Neighbours, nearest_neighbours
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.training import EXACT_ITEMS, TrainingData


def interests(data: TrainingData, modality: str) -> np.ndarray:
    """Mean raw features of each user's training items, float32 ``(U, dim)``; zeros for a user without any."""
    matrix = interaction_matrix(data.users, data.items, data.n_users, data.n_items)
    sums = matrix @ data.features(modality)[:]
    return (sums / np.maximum(np.diff(matrix.indptr), 1)[:, None]).astype(np.float32)


def user_neighbours(data: TrainingData, modality: str, k: int) -> Neighbours:
    """Users nearest in :func:`interests`, each user first; kept on disk."""
    exact = data.n_users <= EXACT_ITEMS
    key = {
        "modality": modality,
        "k": k,
        "version": NEIGHBOURS_VERSION,
        "approximate": not exact and APPROXIMATE_VERSION,
    }

    def build() -> dict[str, np.ndarray]:
        active = np.bincount(data.users, minlength=data.n_users) > 0
        search = nearest_neighbours if exact else approximate_neighbours
        found = search(interests(data, modality), k, active, progress=data.shows_progress)
        return {"indices": found.indices, "cosines": found.cosines}

    return Neighbours(**data.kept("user-neighbours", key, build))


def cosine_over_k(neighbours: Neighbours, k: int) -> sp.csr_array:
    """Directed graph of neighbour lists whose entries are the cosines over k; not normalised further."""
    rows, columns, cosines = neighbours.edges()
    shape = (len(neighbours.indices),) * 2
    return sp.csr_array((cosines.astype(np.float64) / k, (rows, columns)), shape=shape)


def drawn_once(shared: CoOccurrences) -> np.ndarray:
    """How often each neighbour counts once nodes with fewer than k have some of theirs repeated.

    The published code draws the repeats once, when the model is built. Here they are drawn from a generator of their
    own with a fixed seed, so that a checkpoint finds the graph that its weights were trained on.
    """
    generator = np.random.default_rng(0)
    return shared.repeats_to_k(lambda sizes: generator.integers(0, sizes))


def shared_graph(shared: CoOccurrences, repeats: np.ndarray, activity: np.ndarray) -> sp.csr_array:
    """Neighbours weighed with the softmax of their counts; a node without any receives from the most active ones.

    Args:
        shared: neighbours of each node.
        repeats: how often each of them counts.
        activity: interactions of each node, ``(n,)``; the k most active, whose weights are the softmax of their shares
            of what they have together.
    """
    graph = shared.weighted(repeats).scipy().astype(np.float64)
    lonely = np.flatnonzero(np.diff(shared.starts) == 0)
    active = np.argsort(-activity, kind="stable")[: shared.k]
    powers = np.exp(activity[active] / max(activity[active].sum(), 1))
    weights = np.tile(powers / powers.sum(), len(lonely))
    ends = np.repeat(lonely, len(active)), np.tile(active, len(lonely))
    return graph + sp.csr_array((weights, ends), shape=graph.shape)


def similar_and_shared(
    lists: list[Neighbours], shares: list[float], shared: CoOccurrences, activity: np.ndarray, together: float
) -> SparseGraph:
    """The graph over users, or over items: ``together`` of shared interactions, the rest of similar content.

    Args:
        lists, shares: neighbours by each modality's content, and its weight.
        shared: neighbours by shared interactions, of which as many are wanted.
        activity: interactions of each node, ``(n,)``.
        together: weight of shared interactions, from 0 to 1.
    """
    similar = sum(share * cosine_over_k(neighbours, shared.k) for share, neighbours in zip(shares, lists))
    return SparseGraph(together * shared_graph(shared, drawn_once(shared), activity) + (1 - together) * similar)
