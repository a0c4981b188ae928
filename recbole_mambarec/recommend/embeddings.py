"""What may be the final embeddings of a model's users and items; whether they are has to be checked by its scores."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.models.base import MultimodalRecommender

# what RecBole's models call them
_TABLES = (("user_embedding", "item_embedding"), ("user_embeddings", "item_embeddings"))


def final_embeddings(model: AbstractRecommender) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of arrays that may be the embeddings of users and items, float32, without RecBole's padding row.

    Models of this package say what they rank by. Of RecBole's, ``forward`` of graph models returns it, and others have
    tables.
    """
    with torch.no_grad():
        for users, items in _found(model):
            yield embedding_rows(users), embedding_rows(items)


def embedding_rows(table: Tensor) -> np.ndarray:
    """A table without RecBole's padding row, float32."""
    return np.ascontiguousarray(table[1:].detach().float().cpu().numpy())


def _found(model: AbstractRecommender) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(model, MultimodalRecommender):
        yield model.scored_embeddings()
        return
    if all(p.default is not p.empty for p in inspect.signature(model.forward).parameters.values()):
        found = model.forward()
        if isinstance(found, (tuple, list)) and len(found) >= 2 and all(_is_table(x) for x in found[:2]):
            yield found[0], found[1]
    for names in _TABLES:
        tables = [getattr(model, name, None) for name in names]
        users, items = (getattr(table, "weight", table) for table in tables)
        if _is_table(users) and _is_table(items):
            yield users, items


def _is_table(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2
