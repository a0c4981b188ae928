"""How much memory a training step takes, as torch counts it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from recbole_mambarec.models.base import MultimodalRecommender


def tensor_peak(work: Callable[[], object]) -> int:
    """Bytes of CPU tensors that ``work`` holds at its peak, on top of those that existed before."""
    # what nobody holds any more would be freed some time within, and count as memory that was won
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]  # negative where memory is freed
    return int(max(np.cumsum([0, *changes])))


def step_peak(model: MultimodalRecommender, rows: dict[str, torch.Tensor]) -> int:
    """Bytes that two training steps with Adam hold at their peak, with parameters and the copy of the best epoch.

    What is trained apart before an epoch is trained once, before the steps.
    """
    parameters = parameters_by_optimizer(model.train())
    optimizers = {name: torch.optim.Adam(values, fused=True) for name, values in parameters.items()}

    def descend(name: str | None, loss: torch.Tensor) -> None:
        optimizers[name].zero_grad()
        loss.backward(inputs=parameters[name])
        optimizers[name].step()

    def steps() -> None:
        for name, loss in model.losses_before_epoch(0):
            descend(name, loss)
        for _ in range(2):
            for name, loss in model.losses_before_step(*model.nodes_of(rows)):
                descend(name, loss)
            descend(None, cast(torch.Tensor, sum(model.calculate_loss(rows))))

    model.pre_epoch(0)
    own = sum(x.numel() * x.element_size() for x in [*model.parameters(), *model.state_dict().values()])
    return tensor_peak(steps) + own


def parameters_by_optimizer(model: MultimodalRecommender) -> dict[str | None, list[torch.nn.Parameter]]:
    """The trained parameters of each part that is trained apart, by its name, and all others as None."""
    apart = {name: [p for p in part.parameters if p.requires_grad] for name, part in model.trained_apart().items()}
    taken = {id(p) for parameters in apart.values() for p in parameters}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    return {None: others, **apart}
