"""RecBole's own BPR and LightGCN.

A padding row 0 stands in their tables, which no interaction touches. Slots leave it out; in LightGCN's graph it is a
node without edges, and LightGCN agrees as it is. RecBole's BPR has no regulariser in its loss, the published code has
one: the adapter adds it. Without it the loss of the golden file would differ by 3.1 %; its BPR part agrees as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.layers.losses import embedding_norm
from tests.parity.adapters.common import same, weighted
from tests.parity.runner import Adapter, Fixture, Slot

_REAL = slice(1, None)


def _gathered(model: nn.Module, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the batch in the tables that training changes."""
    users, items = model.user_embedding, model.item_embedding
    return users(batch["user_id"]), items(batch["item_id"]), items(batch["neg_item_id"])


BPR = Adapter(
    config=dict,
    slots=lambda model: {
        f"{side}_embedding.weight": Slot(f"{side}_embedding.weight", _REAL) for side in ("user", "item")
    },
    results=lambda model, fixture: iter(()),
    part_names={"bpr": same("loss"), "reg": weighted("reg", "reg_weight")},
    embeddings=lambda model: (model.user_embedding.weight, model.item_embedding.weight),
    missing_loss=lambda model, batch, config: {
        "reg": config["reg_weight"] * embedding_norm(*_gathered(model, batch)),
    },
)


def _light_gcn_results(model: nn.Module, fixture: Fixture) -> Iterator[tuple[str, object]]:
    n_users, n_items = fixture.meta["n_users"], fixture.meta["n_items"]
    real = np.r_[1 : n_users + 1, n_users + 2 : n_users + 2 + n_items]
    yield "graph/norm_adj", model.norm_adj_matrix.to_dense()[real][:, real]
    batch = fixture.batch()
    with torch.no_grad():
        users, items = model()
        users, positives, negatives = users[batch["user_id"]], items[batch["item_id"]], items[batch["neg_item_id"]]
        yield "train/part/bpr", model.mf_loss((users * positives).sum(1), (users * negatives).sum(1))
        yield "train/part/reg", model.reg_loss(*_gathered(model, batch), require_pow=model.require_pow)


LIGHT_GCN = Adapter(
    config=dict,
    slots=lambda model: {
        f"embedding_dict.{side}_emb": Slot(f"{side}_embedding.weight", _REAL) for side in ("user", "item")
    },
    results=_light_gcn_results,
    part_names={},
    embeddings=lambda model: model(),
)
