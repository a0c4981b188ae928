"""MambaRec."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import nn

from recbole_mambarec.layers.dream import DREAM
from recbole_mambarec.layers.losses import info_nce, mmd_gaussian
from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import (
    pair,
    renamed,
    view_parts,
    view_results,
    view_slots,
    weighted,
)
from recbole_mambarec.testing.parity.runner import Fixture

_CONTRAST = "recbole_mambarec.models.mambarec.info_nce"
# of the inputs of the stand-alone DREAM
_SHAPES = ("vec", "map", "tallmap", "widemap", "seq")


def dream_slots(published: str, ours: str, dim: int) -> dict[str, Slot]:
    """Slots of one DREAM's parameters and BatchNorm state; prefixes end with a dot or are empty."""
    norm = ("weight", "bias", "running_mean", "running_var")
    slots = pair(f"{published}branch1.0", f"{ours}pointwise")
    for i in range(3):
        slots |= pair(f"{published}branch{i + 2}.0", f"{ours}dilated.{i}")
    slots |= pair(f"{published}branch5_conv", f"{ours}pooled")
    for i, name in enumerate(["branch1.1", "branch2.1", "branch3.1", "branch4.1", "branch5_bn"]):
        slots |= pair(f"{published}{name}", f"{ours}branch_norm", norm, slice(i * dim, (i + 1) * dim))
        slots[f"{published}{name}.num_batches_tracked"] = Slot(f"{ours}branch_norm.num_batches_tracked")
    slots |= pair(f"{published}conv_cat.0", f"{ours}mix")
    slots |= pair(f"{published}conv_cat.1", f"{ours}mix_norm", (*norm, "num_batches_tracked"))
    slots[f"{published}fusion.channel.fc.weight"] = Slot(f"{ours}channel.weight")
    slots[f"{published}fusion.spatial.Conv1x1.weight"] = Slot(f"{ours}spatial.weight")
    return slots


def _slots(model: AbstractRecommender) -> dict[str, Slot]:
    slots = view_slots() | pair("norm", "norm") | pair("image_reduce", "projection.image.reduce")
    for modality in model.modalities:
        slots |= pair(f"{modality}_trs", f"projection.{modality}.expand")
        slots |= dream_slots(f"dream_{modality}.", f"dream.{modality}.", model.embedding_size)
    return slots


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    arrays = fixture.arrays
    yield from view_results(model, fixture)
    if "infonce/alone_view1" in arrays:
        alone = (torch.tensor(arrays[f"infonce/alone_view{i}"]) for i in (1, 2))
        yield "infonce/alone_value_t0.2", info_nce(*alone, 0.2)
    for key in fixture.keys("mmd/value_bw"):
        x, y = torch.tensor(arrays["mmd/x"]), torch.tensor(arrays["mmd/y"])
        unit = (nn.functional.normalize(a, dim=1) for a in (x, y))
        yield key, mmd_gaussian(*unit, float(key.rsplit("bw", 1)[1]))

    yield from _after_training(fixture)
    yield from _dream_alone(fixture)


def _after_training(fixture: Fixture) -> Iterator[tuple[str, object]]:
    """BatchNorm state after one loss call of the published code, which runs DREAM twice where ours runs it once.

    Both passes see the same statistics s, so from ``r1 = (1 - m) r0 + m s`` follows ``r2 = (2 - m) r1 - (1 - m) r0``.
    """
    model = fixture.build().train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model.calculate_loss(fixture.batch())
    state = dict(model.named_buffers())
    momentum = 0.1
    for name, once in state.items():
        if name.endswith(("running_mean", "running_var")):
            once.copy_((2 - momentum) * once - (1 - momentum) * before[name])
        elif name.endswith("num_batches_tracked"):
            once.copy_(2 * once - before[name])
    for name, slot in fixture.adapter.slots(model).items():
        if slot.name in state:
            after = state[slot.name]
            yield f"train/buffers_after/{name}", after[slot.rows] if after.ndim else after
    yield "eval_after_train/scores", fixture.scores(model)


def _dream_alone(fixture: Fixture) -> Iterator[tuple[str, object]]:
    """The stand-alone DREAM on vectors, maps and sequences."""
    arrays = fixture.arrays
    inputs = [key for key in fixture.keys("dream/") if fixture.is_input(key) and key.endswith("_x")]
    if not inputs:
        return
    dim = arrays["dream/vec_x"].shape[1]
    slots = dream_slots("", "", dim)

    def fresh() -> DREAM:
        module = DREAM(dim)
        state = dict(module.named_parameters()) | dict(module.named_buffers())
        for key in fixture.keys("dream/param/"):
            slot = slots[key[len("dream/param/") :]]
            target = state[slot.name].data[slot.rows] if state[slot.name].ndim else state[slot.name].data
            target.copy_(torch.as_tensor(arrays[key]).reshape(target.shape))
        return module

    for key in inputs:
        stem = key[: -len("_x")]
        x = torch.tensor(arrays[key])
        with torch.no_grad():
            yield f"{stem}_eval_out", fresh().eval()(x)
        module = fresh().train()
        x.requires_grad_()
        out = module(x)
        out.square().sum().backward()
        yield f"{stem}_train_out", out.detach()
        yield f"{stem}_train_grad_x", x.grad
        state = dict(module.named_buffers())
        for name, slot in slots.items():
            if slot.name in state:
                after = state[slot.name]
                yield f"{stem}_buffers_after/{name}", after[slot.rows] if after.ndim else after


ADAPTER = Adapter(
    config=renamed(
        {"cl_loss": "cl_weight", "mmd_kernel_bandwidth": "mmd_bandwidth", "n_layers": "n_mm_layers"}, dropout_prob=0.0
    ),
    slots=_slots,
    results=_results,
    parts={
        **view_parts(_CONTRAST, items=1, users=0),
        "mmd": weighted("mmd", "mmd_weight"),
    },
    watched=(_CONTRAST,),
    inputs=("mmd/x", "mmd/y", "infonce/alone_view*", "dream/param/*", *(f"dream/{shape}_x" for shape in _SHAPES)),
)
