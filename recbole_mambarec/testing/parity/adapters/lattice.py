"""LATTICE. Its later batches find the graph that the first one of the epoch has left."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import dense, item_tables, renamed, same
from recbole_mambarec.testing.parity.runner import Fixture


def _config(published: dict) -> dict:
    if published.pop("cf_model") != "lightgcn":
        raise UserError("LATTICE is here with LightGCN alone")
    layers = len(published.pop("weight_size"))
    names = {"n_layers": "n_mm_layers", "lambda_coeff": "ii_raw_weight"}
    return renamed(names, n_ui_layers=layers)(published)


def _first_batch(model: AbstractRecommender, fixture: Fixture) -> None:
    with torch.no_grad():
        model.train().embed()


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    for name, graph in model.raw_graph.items():
        yield f"graph/{name}_knn", dense(graph)
    with torch.no_grad():
        for name in model.modalities:
            yield f"graph/{name}_learnt", model.learnt_graph(name).scipy().toarray()
        learnt, beta = model._learn()
    raw = sum(weight * dense(graph) for weight, graph in zip(beta.tolist(), model.raw_graph.values()))
    yield "graph/item_item", model.raw_weight * raw + learnt.scipy().toarray()


ADAPTER = Adapter(
    slots=lambda model: {
        "modal_weight": Slot("modality_weight"),
        "user_embedding.weight": Slot("user_embedding.weight"),
        **item_tables(),
    },
    config=_config,
    unused={"mess_dropout": "of NGCF, which is another cf_model"},
    parts={"bpr": same("bpr"), "reg_weighted": same("reg")},
    runs={"second": Run(change=_first_batch)},
    results=_results,
)
