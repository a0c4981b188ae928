"""LIRDRec. The second and third epochs follow a training step with the same parameters each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import nn

from recbole_mambarec.layers.spectral import dct
from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.common import (
    EPOCH_DRAW,
    FEATURE_WIDTH,
    neighbour_graphs,
    pair,
    renamed,
    same,
)
from recbole_mambarec.testing.parity.runner import Fixture

_BRANCHES = {
    "image": ("v", "v_preference", "a"),
    "text": ("t", "t_preference", "b"),
    "spectrum": ("s", "id_preference", "c"),
}


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {"fusion_module.theta": Slot("theta")}
    for ours, (name, preference, scorer) in _BRANCHES.items():
        slots[preference] = Slot(f"preference.{ours}")
        slots |= pair(f"{name}_MLP", f"hidden.{ours}")
        slots[f"{name}_MLP_1.weight"] = Slot(f"output.{ours}.weight")
        slots |= pair(f"fusion_module.weco_{scorer}.fc1", f"scorer.{ours}.0")
        slots |= pair(f"fusion_module.weco_{scorer}.fc2", f"scorer.{ours}.2")
    return slots | {f"{modality}_embedding.weight": None for modality in model.modalities}


def _after(epochs: int) -> Callable[[nn.Module, Fixture], None]:
    """Bring a fresh model to where it has begun its ``epochs``-th epoch."""

    def change(model: AbstractRecommender, fixture: Fixture) -> None:
        model.pre_epoch(0)
        for epoch in range(1, epochs):
            with torch.no_grad():
                model.train().embed()
            model.pre_epoch(epoch)

    return change


def _mean_square(side: int) -> Callable[[TrainingPass], torch.Tensor]:
    def compute(made: TrainingPass) -> torch.Tensor:
        with torch.no_grad():
            return made.model.eval().embed()[side].square().mean()

    return compute


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from neighbour_graphs(model, fixture)
    features = [torch.from_numpy(fixture.arrays[f"data/{m}_feat"]) for m in model.modalities]
    yield "spectrum/features", torch.cat([dct(x) for x in features], dim=1)
    with torch.no_grad():
        yield "eval/attention", model.eval()._attention(model._branches()[0])
        for epochs, prefix in enumerate(("train", "epoch2", "epoch3"), start=1):
            begun = fixture.build()
            _after(epochs)(begun, fixture)
            yield f"{prefix}/weights", begun.weights
            yield f"{prefix}/theta", begun.theta.detach()
            yield f"{prefix}/attention", begun._attention(begun._branches()[0])


ADAPTER = Adapter(
    slots=_slots,
    config=renamed({}),
    unused={
        "feat_embed_dim": FEATURE_WIDTH,
        "dropout": EPOCH_DRAW,
        "learning_rate": "of the optimizer",
        "weight_decay": "of the optimizer",
    },
    parts={"bpr": same("bpr"), "reg_user": _mean_square(0), "reg_item": _mean_square(1)},
    runs={prefix: Run(change=_after(n)) for n, prefix in enumerate(("train", "epoch2", "epoch3"), start=1)},
    results=_results,
)
