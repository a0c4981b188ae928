"""MVGAE. Layers that the published code registers and never uses have no place in ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.common import call, pair, renamed
from recbole_mambarec.testing.parity.recorded import recorded
from recbole_mambarec.testing.parity.runner import Fixture

_TOWERS = {"image": ("v_gcn", "image"), "text": ("t_gcn", "text"), "ids": ("c_gcn", "ids")}
_RECONSTRUCTION, _DIVERGENCE = (f"recbole_mambarec.models.mvgae.{n}" for n in ("reconstruction", "standard_divergence"))
_VIEWS = ("joint", "image", "text", "ids")


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {"collaborative": Slot("item_embedding")}
    for ours, (theirs, _) in _TOWERS.items():
        encoder = f"encoder.{ours}"
        slots[f"{theirs}.preference"] = Slot(f"{encoder}.preference")
        slots |= pair(f"{theirs}.MLP", f"{encoder}.entry")
        for number in (1, 2):
            there = number <= len(model.encoder[ours].hidden)
            for name, place in (("conv_embed_", f"{encoder}.hidden"), ("g_layer", f"{encoder}.gate")):
                published = f"{theirs}.{name}{number}"
                slots |= pair(published, f"{place}.{number - 1}") if there else _unused(published)
            slots |= _unused(f"{theirs}.linear_layer{number}")
        for number, head in ((4, "mean"), (5, "log_variance")):
            for name, part in (("conv_embed_", "spread"), ("g_layer", "gate"), ("linear_layer", "own")):
                slots |= pair(f"{theirs}.{name}{number}", f"{encoder}.{head}.{part}")
    return slots


def _unused(name: str) -> dict[str, None]:
    return {f"{name}.weight": None, f"{name}.bias": None}


def _no_noise(fixture: Fixture) -> list:
    shape = fixture.meta["n_users"] + fixture.meta["n_items"], fixture.config["embedding_size"]
    return [np.zeros(shape, dtype=np.float32)] * len(_VIEWS)


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    with torch.no_grad():
        gaussians = model.eval()._gaussians()
    names = {"joint": "", **{f"expert {ours}": f"{theirs}_" for ours, (_, theirs) in _TOWERS.items()}}
    for ours, theirs in names.items():
        for quantity, values in zip(("mu", "logvar"), gaussians[ours]):
            yield f"eval/{theirs}{quantity}", values
    # what tables that the published code does not optimise would receive
    trained = fixture.build().train()
    trained.item_embedding.requires_grad_(True)
    for encoder in trained.encoder.values():
        encoder.preference.requires_grad_(True)
    with recorded(_no_noise(fixture)):
        cast(Tensor, sum(fixture.losses(trained).values())).backward()
    yield "grad_unoptimised/collaborative", trained.item_embedding.grad
    for ours, (theirs, _) in _TOWERS.items():
        yield f"grad_unoptimised/{theirs}.preference", trained.encoder[ours].preference.grad


def _parts() -> dict[str, Callable[[TrainingPass], object]]:
    parts: dict[str, Callable[[TrainingPass], object]] = {
        f"recon_{view}": call(_RECONSTRUCTION, number) for number, view in enumerate(_VIEWS)
    }
    return parts | {f"kl_{view}": call(_DIVERGENCE, number) for number, view in enumerate(_VIEWS)}


ADAPTER = Adapter(
    slots=_slots,
    config=renamed({"dim_latent": "latent_dim", "n_layers": "n_ui_layers"}, dropout_prob=0.0),
    parts=_parts(),
    watched=(_RECONSTRUCTION, _DIVERGENCE),
    runs={
        "train": Run(draws=_no_noise),
        "noise": Run(draws=lambda fixture: [fixture.arrays[f"noise/draw_{view}"] for view in _VIEWS]),
    },
    results=_results,
)
