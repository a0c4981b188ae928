"""Parts of a model that have a loss and an optimizer of their own, such as the discriminator of a GAN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class TrainedApart:
    """Parameters that an optimizer of their own steps, and nothing else does.

    Attributes:
        parameters: of the model.
        learning_rate: before the schedule; None: the key ``learning_rate``.
        weight_decay: None: the key ``weight_decay``.
        options: more values of the optimizer, e.g. ``betas``; one that its learner does not have is without effect.
        schedule: epoch -> factor on the learning rate; None: that of the other parameters.
    """

    parameters: Iterable[nn.Parameter]
    learning_rate: float | None = None
    weight_decay: float | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    schedule: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        # they are gone through more than once
        object.__setattr__(self, "parameters", tuple(self.parameters))


class Descent:
    """An optimizer with the schedule of its learning rate.

    Args:
        optimizer: steps :attr:`parameters`.
        factor: epoch -> factor on the learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> None:
        self.optimizer = optimizer
        # as configured: what is loaded from a checkpoint replaces it in the optimizer
        self._weight_decay = [group.get("weight_decay") for group in optimizer.param_groups]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]

    def apply_configuration(self) -> None:
        """Replace learning rate and weight decay from a checkpoint with those of this run's configuration."""
        scheduler = self.scheduler
        for group, base, factor, decay in zip(
            self.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, self._weight_decay
        ):
            group.update(lr=base * factor(scheduler.last_epoch), initial_lr=base)
            if decay is not None:
                group["weight_decay"] = decay

    def average_gradients(self) -> None:
        """Give all processes the mean of their gradients, as DistributedDataParallel does for the other parameters."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
