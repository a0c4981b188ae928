"""LGMRec. Its published scores are random; most numbers of the file were made with zeros in place of the noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import FEATURE_WIDTH, dense, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture

_NAMES = {"image": "v_hyper", "text": "t_hyper"}


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    slots = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
    }
    for modality, hyperedges in _NAMES.items():
        slots[f"{modality}_embedding.weight"] = Slot(f"features.{modality}.weight")
        slots[f"item_{modality}_trs"] = Slot(f"projection.{modality}")
        slots[hyperedges] = Slot(f"hyperedges.{modality}")
    return slots


def _without_noise(model: AbstractRecommender, fixture: Fixture) -> None:
    model._noise = torch.zeros_like


def _recorded_noise(model: AbstractRecommender, fixture: Fixture) -> None:
    order = [f"gumbel/noise_{modality}_{side}" for modality in ("image", "text") for side in ("item", "user")]
    noise = iter([torch.tensor(fixture.arrays[key]) for key in order])
    model._noise = lambda like: next(noise)


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    yield "graph/user_item_raw", dense(model.sum_of_items)
    # the published code adds 1e-7 for isolated nodes; the means of users agree without it
    counts = (dense(model.bipartite) != 0).sum(axis=1)
    yield "graph/inverse_degree", 1.0 / (counts + 1e-7)
    _recorded_noise(model, fixture)
    yield "gumbel/scores", fixture.scores(model)


ADAPTER = Adapter(
    config=renamed({"n_mm_layers": "n_feature_layers", "n_hyper_layer": "n_hyper_layers"}, variant="released"),
    unused={"feat_embed_dim": FEATURE_WIDTH, "cf_model": "LightGCN is the only one here"},
    slots=_slots,
    results=_results,
    runs={"gumbel": Run(change=_recorded_noise)},
    inputs=("gumbel/noise_*",),
    prepare=_without_noise,
    parts={
        "bpr": same("bpr"),
        "hcl_user": weighted("contrastive_user", "cl_weight"),
        "hcl_item": weighted("contrastive_item", "cl_weight"),
        "reg": weighted("reg", "reg_weight"),
    },
)
