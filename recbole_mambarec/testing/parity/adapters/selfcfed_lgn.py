"""SELFCFED_LGN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import dense, pair, renamed, weighted
from recbole_mambarec.testing.parity.runner import Fixture


def _config(published: dict) -> dict:
    # main arrays are without any drop
    return renamed({"n_layers": "n_ui_layers", "dropout": "dropout_prob"}, edge_dropout=False)(published)


def _masked(fixture: Fixture) -> dict:
    return {"dropout_prob": 1 - 1 / float(fixture.arrays["dropout/mask_user"].max())}


def _edge_draws(fixture: Fixture) -> list:
    """The rate, and the draws in the order in which our graph stores its entries."""
    rows, columns = fixture.arrays["edges/order"]
    order = np.lexsort((columns, rows))
    return [fixture.arrays["edges/rate"].reshape(1), fixture.arrays["edges/draw"][order]]


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    with torch.no_grad():
        for side, nodes in zip(("user", "item"), model.eval()._online()):
            yield f"eval/online_{side}_embeddings", nodes
            yield f"eval/{side}_embeddings", model.predictor(nodes)


def _part(number: int):
    return lambda made: -made.calls[_LIKENESS][number].result


_LIKENESS = "recbole_mambarec.models.selfcfed_lgn.mean_cosine"

ADAPTER = Adapter(
    slots=lambda model: (
        {f"online_encoder.embedding_dict.{side}_emb": Slot(f"{side}_embedding.weight") for side in ("user", "item")}
        | pair("predictor", "predictor")
    ),
    config=_config,
    parts={"user_item": _part(0), "item_user": _part(1), "reg": weighted("reg", "reg_weight")},
    watched=(_LIKENESS,),
    runs={
        "dropout": Run(
            settings=_masked, draws=lambda f: [f.arrays[f"dropout/mask_{side}"] for side in ("user", "item")]
        ),
        "edges": Run(settings=lambda fixture: {"edge_dropout": True}, draws=_edge_draws),
    },
    results=_results,
)
