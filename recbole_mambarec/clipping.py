"""Gradients are clipped at their own length, also where a scaler has enlarged them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from recbole_mambarec.compat.patching import replace


def install() -> None:
    """Let RecBole's trainers clip what ``clip_grad_norm`` asks for under ``enable_scaler``; may be called repeatedly.

    Their loops hand the scaled gradients to ``clip_grad_norm_``, which cuts them down to ``max_norm``; the step then
    divides by the scale (65 536 at first), and the model hardly moves.

    No upstream issue known.
    """
    replace(importlib.import_module("recbole.trainer.trainer"), "clip_grad_norm_", _clip_in_a_loop_of_recbole)


def _clip_in_a_loop_of_recbole(parameters: Iterable[nn.Parameter], *args, **kwargs) -> Tensor:
    # the loops of Trainer and NCLTrainer hand over neither their scaler nor the optimizer whose gradients it scales;
    # to reach them otherwise, the loops would have to be copied
    loop = inspect.currentframe().f_back.f_locals
    if "scaler" not in loop:  # called by somebody else
        return nn.utils.clip_grad_norm_(parameters, *args, **kwargs)
    return clip_gradients(parameters, loop["scaler"], loop["self"].optimizer, *args, **kwargs)


def clip_gradients(
    parameters: Iterable[nn.Parameter], scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, *args, **kwargs
) -> Tensor:
    """Undo the scaling of the gradients, then clip them; between ``backward`` and ``scaler.step(optimizer)``.

    Args:
        parameters: whose gradients are clipped together; a sparse gradient counts with its sums per row.
        scaler: one that is disabled has not scaled anything.
        optimizer: takes the step.
        args, kwargs: of :func:`torch.nn.utils.clip_grad_norm_`.

    Returns:
        The length of the gradients before they were clipped, a scalar.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    scaler.unscale_(optimizer)
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    # what another optimizer steps (RecVAE has one for each half) goes on adding up under the scale
    others = [parameter.grad for parameter in parameters if id(parameter) not in stepped]
    scale = scaler.get_scale() if others else 1.0
    for grad in others:
        grad.div_(scale)
    length = nn.utils.clip_grad_norm_([_dense(parameter) for parameter in parameters], *args, **kwargs)
    for grad in others:
        grad.mul_(scale)
    return length


def _dense(parameter: nn.Parameter) -> nn.Parameter | SimpleNamespace:
    """What torch can clip: the parameter, or the values of its sparse gradient."""
    if not parameter.grad.is_sparse:
        return parameter
    parameter.grad = parameter.grad.coalesce()
    return SimpleNamespace(grad=parameter.grad._values())
