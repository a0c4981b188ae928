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
    """Bytes that two training steps with Adam hold at their peak, with parameters and the copy of the best epoch."""
    optimizer = torch.optim.Adam([p for p in model.train().parameters() if p.requires_grad], fused=True)
    model.pre_epoch(0)

    def steps() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            cast(torch.Tensor, sum(model.calculate_loss(rows))).backward()
            optimizer.step()

    own = sum(x.numel() * x.element_size() for x in [*model.parameters(), *model.state_dict().values()])
    return tensor_peak(steps) + own
