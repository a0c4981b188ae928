"""PGL. Items have no ids; the file of the global form holds its graph alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.models.pgl import leading_singular_vectors
from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    FEATURE_WIDTH,
    call,
    dense,
    item_tables,
    masks,
    neighbour_graphs,
    prune,
    pruned_results,
    renamed,
    same,
)
from recbole_mambarec.testing.parity.runner import Fixture

_CONTRAST = "recbole_mambarec.models.pgl.info_nce"


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    users = {f"user_{m}.weight": Slot(f"user_embedding.{m}.weight") for m in model.modalities}
    return users | {name: slot for name, slot in item_tables().items() if name != "item_id_embedding.weight"}


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from neighbour_graphs(model, fixture)
    if fixture.config["subgraph"] == "local":
        yield from pruned_results(model, fixture) if fixture.keys("prune/") else ()
        return
    yield "global/graph", dense(model.training_graph)
    rank = fixture.config["embedding_size"]
    _, values, _ = leading_singular_vectors(model.data, -(-rank // 2))
    # a bipartite adjacency has each singular value of its block twice
    yield "global/singular_values", np.repeat(values, 2)[:rank]


ADAPTER = Adapter(
    slots=_slots,
    config=renamed({"dropout": "dropout_prob", "mode": "subgraph", "reg_weight": "cl_weight"}),
    unused={"feat_embed_dim": FEATURE_WIDTH},
    parts={"bpr": same("bpr"), "cl_user": call(_CONTRAST, 0), "cl_item": call(_CONTRAST, 1)},
    watched=(_CONTRAST,),
    runs={"dropout": masks("user_1", "user_2", "item_1", "item_2"), "prune": Run(change=prune)},
    results=_results,
)
