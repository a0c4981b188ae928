"""GraphFilter: a polynomial filter on a graph of items, from interactions and features; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_mambarec.data.graphs.bipartite import normalised_interactions
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.closed_forms import (
    SOLVERS,
    dense_if_faster,
    largest_of_rows,
    memory_of_matrices,
    neighbour_lists,
    row_blocks,
    scale_of_new_items,
    symmetric_graph,
)
from recbole_mambarec.models.item_to_item import ItemToItem, Weights, memory_of_lists
from recbole_mambarec.value_checks import check_choice, check_share


class GraphFilter(ItemToItem):
    """Graph filtering without training on interactions and features, our own form of GF-CF (CIKM 2021, arXiv
    2108.07567) and of its multimodal relative MM-GF (arXiv 2503.04406).

    Items form a graph of those that are used together and those that resemble each other. A user's items reach other
    items over one, two or more hops of this graph, as ``filter`` weighs them: by default over two, i.e. items that are
    used together with items like the user's, and items like those that are used together with them. MM-GF adds filters
    of one graph each, in which nothing crosses from one graph to the other.

    Score, with T the graph of items that are each other's nearest by features, normalised like A, D the numbers of
    users of the items (1 for an item without any), and c_1, c_2, ... the coefficients in ``filter``, by default 0 and
    1::

        G = (1 - feature_share) A_u^T A_u + feature_share T
        s(u, i) = (R D^-history_discount (c_1 G + c_2 G^2 + ...) D^popularity)_ui

    Modalities count as ``modality_weights`` says or, by default, as much as each explains of which items are used
    together. Items without a training interaction are reached over T, and ``cold_scale`` lifts their columns of weights
    to that many times the length of the others.

    ``solver: dense`` holds the weights of all pairs of items; ``sparse`` keeps the ``sparse_k`` largest of each row.
    """

    cold_scale_of = "weights"

    def weights(self, config) -> Sequence[Weights]:
        """The filter, dense or sparse."""
        data, coefficients = self.data, config["filter"]
        share = check_share("feature_share", config["feature_share"])
        normalised = normalised_interactions(data.users, data.items, data.n_users, data.n_items)
        lists = neighbour_lists(data, config["n_neighbors"], config["modality_weights"], data.history)
        graph = sp.csr_array((1 - share) * (normalised.T @ normalised) + share * symmetric_graph(lists))
        sparse = check_choice("solver", config["solver"], SOLVERS) == "sparse"
        hop = graph if sparse else dense_if_faster(graph)
        counts = np.maximum(data.history.sum(axis=0), 1.0)
        before, after = counts ** -config["history_discount"], counts ** config["popularity"]

        def filtered() -> Iterator[tuple[slice, Any]]:
            for rows in row_blocks(data.n_items):
                hops = hop[rows]
                total = coefficients[0] * hops
                for coefficient in coefficients[1:]:
                    hops = hops @ hop
                    total = total + coefficient * hops
                yield rows, sp.diags_array(before[rows]) @ total @ sp.diags_array(after)

        if sparse:

            def squares() -> np.ndarray:
                return reduce(add, (block.power(2).sum(axis=0) for _, block in filtered()))

            # in a pass of its own before entries are left out: from here on, what is filtered has this scale
            after = after * scale_of_new_items(squares, data, config["cold_scale"])
            return [largest_of_rows((block for _, block in filtered()), config["sparse_k"])]
        weights = np.empty((data.n_items, data.n_items), dtype=np.float32)
        for rows, block in filtered():
            weights[rows] = block if isinstance(block, np.ndarray) else block.toarray()
        weights *= scale_of_new_items(lambda: np.einsum("ij,ij->j", weights, weights), data, config["cold_scale"])
        return [weights]

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """That of the matrix of all pairs of items or, with ``solver: sparse``, of the listed scores.

        Raises:
            UserError: there are more than ``dense_items`` items, and the solver is not sparse.
        """
        if config["solver"] == "sparse":
            return memory_of_lists(config, config["sparse_k"])
        return memory_of_matrices(cls.__name__, config, data, 1.0)
