"""MMGCN. Its tensors outside the optimiser are compared in a model that trains them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import pair, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture

_TOWERS = {"v_gcn": "image", "t_gcn": "text"}


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    slots = {"id_embedding": Slot("node_ids.weight")} | pair("v_gcn.MLP", "towers.image.entry")
    for tower, modality in _TOWERS.items():
        slots[f"{tower}.preference"] = Slot(f"preference.{modality}.weight")
        for layer in range(3):
            ours = f"towers.{modality}"
            slots[f"{tower}.conv_embed_{layer + 1}.weight"] = Slot(f"{ours}.message.{layer}.weight", transposed=True)
            slots |= pair(f"{tower}.linear_layer{layer + 1}", f"{ours}.own.{layer}")
            slots |= pair(f"{tower}.g_layer{layer + 1}", f"{ours}.combine.{layer}")
    return slots


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    trained = fixture.build(variant="paper").train()
    cast(Tensor, sum(fixture.losses(trained).values())).backward()
    parameters = dict(trained.named_parameters())
    for name in fixture.meta["unoptimised_tensors"]:
        yield f"grad_unoptimised/{name}", parameters[_slots(trained)[name].name].grad


ADAPTER = Adapter(
    config=renamed({"dim_latent": "latent_dim"}),
    unused={"n_layers": "there are always three"},
    slots=_slots,
    results=_results,
    parts={
        "bpr": same("bpr"),
        "reg_id": weighted("reg_id", "reg_weight"),
        "reg_image_pref_table": weighted("reg_preference", "reg_weight"),
    },
)
