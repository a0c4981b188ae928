"""DualGNN. Weights of items, without effect on any score, are in the published loss alone: the adapter adds them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor, nn

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.branches import (
    BRANCH_PARTS,
    WIDTH,
    branch_config,
    branch_results,
    branch_slots,
    take_drawn_users,
)
from recbole_mambarec.testing.parity.adapters.common import dense
from recbole_mambarec.testing.parity.adapters.drawn_users import user_graph_results
from recbole_mambarec.testing.parity.runner import Fixture


def _prepare(model: AbstractRecommender, fixture: Fixture) -> None:
    take_drawn_users(model, fixture)
    model.item_weight = nn.Parameter(torch.empty(fixture.meta["n_items"], 2, 1))


def _missing_loss(model: AbstractRecommender, batch: dict, config: dict) -> dict[str, Tensor]:
    return {"reg_weight_i": config["reg_weight"] * model.item_weight.square().mean()}


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    yield from branch_results(model)
    yield from user_graph_results(model, fixture)


ADAPTER = Adapter(
    slots=lambda model: branch_slots(model, "MLP_v", "MLP_t", "MLP_user") | {"weight_i": Slot("item_weight")},
    config=branch_config,
    unused={
        "embedding_size": WIDTH,
        "n_layers": "always two hops",
        "aggr_mode": "the published grid adds",
    },
    parts=BRANCH_PARTS | {"reg_weight_i": lambda made: made.model.item_weight.square().mean()},
    results=_results,
    prepare=_prepare,
    missing_loss=_missing_loss,
)
