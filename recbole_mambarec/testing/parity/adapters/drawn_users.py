"""The published user graphs, which repeat neighbours at random: built from the lists and the draw of a file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.parity.runner import Fixture


def drawn_user_graph(fixture: Fixture) -> SparseGraph:
    """The user graph of a file.

    Raises:
        UserError: the users drawn for one are not as many as the file says, or none of its neighbours.
    """
    k = fixture.config["user_knn_k"]
    lists, counts = (fixture.arrays[f"data/{name}"][:, :k] for name in ("user_neighbours", "user_neighbour_counts"))
    sizes = (lists >= 0).sum(axis=1)
    co_users = CoOccurrences(np.concatenate([[0], np.cumsum(sizes)]), lists[lists >= 0], counts[lists >= 0], k)
    times = [
        (lists[user, :size, None] == fixture.arrays["user_graph/index"][user]).sum(axis=1)
        for user, size in enumerate(sizes)
    ]
    if any(drawn.sum() not in (0, k) for drawn in times):
        raise UserError(f"{fixture.path}: user_graph/index names users who are not among the {k} neighbours of a user")
    return co_users.weighted(np.concatenate(times))


def user_graph_results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    """The user graph, and the weights with which the drawn users of each user count."""
    dense = model.user_graph.each_once.scipy().toarray()
    drawn = fixture.arrays["user_graph/index"]
    users = np.arange(len(drawn))[:, None]
    # a user who was drawn several times has the sum in the graph
    times = (drawn[:, :, None] == drawn[:, None, :]).sum(axis=2)
    yield "graph/user_user", dense
    yield "user_graph/weights", dense[users, drawn] / times
