"""MENTOR. The term that masks features has no gradient: the adapter adds it to the loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor, nn

from recbole_mambarec.layers.losses import cosine_distance
from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.branches import (
    BRANCH_PARTS,
    PUBLISHED,
    WIDTH,
    branch,
    branch_config,
    branch_results,
    branch_slots,
)
from recbole_mambarec.testing.parity.adapters.common import FEATURE_WIDTH, call, neighbour_graphs
from recbole_mambarec.testing.parity.runner import Fixture

_UNUSED = ("MLP_user", "weight_i", "image_trs", "text_trs", "image_embedding", "text_embedding")
_CONTRAST = "recbole_mambarec.models.mentor.node_table_nce"
_DRAWS = [f"noise/draw_{m}_{twin}_layer{layer}" for twin in (1, 2) for m in ("image", "text") for layer in (1, 2)]


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots = branch_slots(model, *_UNUSED) | branch("id_gcn", "id_branch")
    slots |= {"id_feat": Slot("item_embedding"), "mlp.weight": Slot("mlp.weight"), "mlp.bias": Slot("mlp.bias")}
    for twin in range(2):
        for modality in model.modalities:
            slots |= branch(f"{PUBLISHED[modality]}_n{twin + 1}", f"twins.{twin}.{modality}")
    return slots


def _config(published: dict) -> dict:
    names = {"mask_weight_g": "cl_weight", "temp": "temperature"}
    return {names.get(key, key): value for key, value in branch_config(published).items()}


def _prepare(model: AbstractRecommender, fixture: Fixture) -> None:
    width = 2 * fixture.config["embedding_size"]
    model.mlp = nn.Linear(width, width).requires_grad_(False)
    model.mask_weight = fixture.published["mask_weight_f"]


def _masked(model: AbstractRecommender) -> list[Tensor]:
    """The terms of users and of items."""
    with torch.no_grad():
        return [cosine_distance(x, model.mlp(x)) for x in model.embed()]


def _moments(made: TrainingPass) -> list[float]:
    with torch.no_grad():
        views = made.model._views(made.model._modal_nodes()).values()
        return [moment.item() for view in views for moment in (view.var(), view.mean())]


def _no_noise(fixture: Fixture) -> list:
    shape = fixture.meta["n_users"] + fixture.meta["n_items"], fixture.config["embedding_size"]
    return [np.zeros(shape, dtype=np.float32)] * len(_DRAWS)


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from neighbour_graphs(model, fixture)
    yield from branch_results(model)
    model.eval()
    with torch.no_grad():
        yield "eval/branch_ids", model.id_branch(model.item_embedding, model.bipartite)
        views = model._views(model._modal_nodes())
        for key, name in (("guide", "guide"), ("v", "modal image"), ("t", "modal text")):
            yield f"eval/{key}_embeddings", views[name]
        for number, twin in enumerate(model.twins, start=1):
            modal = {m: twin[m](model.features[m](), model.bipartite) for m in model.modalities}
            yield f"eval/n{number}_embeddings", model._fused(modal)


ADAPTER = Adapter(
    slots=_slots,
    config=_config,
    unused={
        "embedding_size": WIDTH,
        "feat_embed_dim": FEATURE_WIDTH,
        "dropout": "of the term without gradient",
        "mask_weight_f": "of the term without gradient, which the adapter adds",
        "user_knn_k": "the user graph is never used",
    },
    parts=BRANCH_PARTS
    | {
        "nce_user": call(_CONTRAST, 0),
        "nce_item": call(_CONTRAST, 1),
        "moments": _moments,
        "mask_user": lambda made: _masked(made.model)[0],
        "mask_item": lambda made: _masked(made.model)[1],
    },
    watched=(_CONTRAST,),
    runs={"train": Run(draws=_no_noise), "noise": Run(draws=lambda f: [f.arrays[name] for name in _DRAWS])},
    results=_results,
    prepare=_prepare,
    missing_loss=lambda model, batch, config: {"mask": model.mask_weight * sum(_masked(model))},
)
