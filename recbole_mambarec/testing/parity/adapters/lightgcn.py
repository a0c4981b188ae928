"""RecBole's own LightGCN. Its padding item is a node without edges in its graph, and it agrees as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.bpr import REAL, gathered
from recbole_mambarec.testing.parity.runner import Fixture


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    n_users, n_items = fixture.meta["n_users"], fixture.meta["n_items"]
    real = np.r_[1 : n_users + 1, n_users + 2 : n_users + 2 + n_items]
    yield "graph/norm_adj", model.norm_adj_matrix.to_dense()[real][:, real]
    batch = fixture.batch()
    with torch.no_grad():
        users, items = model()
        users, positives, negatives = users[batch["user_id"]], items[batch["item_id"]], items[batch["neg_item_id"]]
        yield "train/part/bpr", model.mf_loss((users * positives).sum(1), (users * negatives).sum(1))
        yield "train/part/reg", model.reg_loss(*gathered(model, batch), require_pow=model.require_pow)


ADAPTER = Adapter(
    slots=lambda model: {
        f"embedding_dict.{side}_emb": Slot(f"{side}_embedding.weight", REAL) for side in ("user", "item")
    },
    results=_results,
    embeddings=lambda model: model(),
)
