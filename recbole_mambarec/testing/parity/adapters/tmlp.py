"""TMLP. Neighbours with equal information are chosen by rounding there: the file's choice is taken where it is one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import dense, pair, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture

_PUBLISHED = {"image": "v", "text": "t"}


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        "gcn.preference": Slot("preference"),
    }
    for modality, name in _PUBLISHED.items():
        slots |= pair(f"MLP_{name}", f"entry.{modality}.0") | pair(f"MLP_{name}1", f"entry.{modality}.2")
        slots |= pair(f"{name}gmlp.layernorm", f"mlp.{modality}.norm")
        for number in range(len(model.mlp[modality].layers)):
            slots |= pair(f"{name}gmlp.fc_layers.{number}", f"mlp.{modality}.layers.{number}")
        slots[f"{modality}_embedding.weight"] = None
    return slots


def _item_graph(model: AbstractRecommender, fixture: Fixture):
    return model.data.mixed_item_graph(fixture.config["knn_k"], fixture.config["mm_image_weight"])


def _prepare(model: AbstractRecommender, fixture: Fixture) -> None:
    chosen = torch.from_numpy(fixture.arrays["data/pruned_index"].astype(np.int32))
    weights = torch.from_numpy(fixture.arrays["data/pruned_graph"])
    itself = torch.arange(len(chosen), dtype=torch.int32)[:, None]
    # where an item has fewer, the item itself stands in for the others, with a weight of 0
    listed = (chosen >= 0) & (chosen != itself)
    chosen = torch.cat([chosen.where(listed, itself), itself], dim=1)
    if chosen.shape != model.informative.shape:
        raise UserError(f"{fixture.path}: data/pruned_index does not list mi_neighbors items per item")
    model.informative_weights.copy_(weights.gather(1, chosen.long()))
    model.informative_weights[:, :-1] *= listed
    model.informative.copy_(chosen)


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/item_item", dense(_item_graph(model, fixture))
    with torch.no_grad():
        for modality in model.modalities:
            yield f"eval/{modality}_features", model._modal(modality)


ADAPTER = Adapter(
    slots=_slots,
    config=renamed(
        {
            "num_fc_layers": "n_mlp_layers",
            "act_fn": "activation",
            "sampling_size": "mi_neighbors",
            "alpha1": "cl_weight",
            "tau1": "tau",
            "v_dropout": "dropout_prob",
        }
    ),
    unused={
        "feat_embed_dim": "that of ids in every file",
        "t_dropout": "that of the image features in every file",
        **dict.fromkeys(("alpha2", "reg_weight", "aggr_mode", "dropout", "n_ui_layers"), "read without effect"),
    },
    parts={"bpr": same("bpr"), "neighbour_contrast": weighted("contrastive", "cl_weight")},
    results=_results,
    prepare=_prepare,
)
