"""ItemKNNCBF."""

from __future__ import annotations

from collections.abc import Iterator

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.models.itemknncbf import content_neighbours, similarity_matrix
from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.runner import Fixture


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    neighbours = content_neighbours(model.data, fixture.config["knn_k"], fixture.config["shrink"])
    yield "graph/item_item", similarity_matrix(*neighbours).toarray()


ADAPTER = Adapter(slots=lambda model: {"dummy_embeddings": Slot("placeholder")}, results=_results)
