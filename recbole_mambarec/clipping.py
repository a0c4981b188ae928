"""Clip gradients by their true norm, also where a gradient scaler has enlarged them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from recbole_mambarec.compat.patching import replace


def install() -> None:
    """Make ``clip_grad_norm`` work under ``enable_scaler`` in RecBole's trainers; a second call changes nothing.

    Their loops pass the scaled gradients to ``clip_grad_norm_``, which reduces them to ``max_norm``. The step then
    divides them by the scale (65 536 at first), and the parameters hardly change.

    No upstream issue known.
    """
    replace(importlib.import_module("recbole.trainer.trainer"), "clip_grad_norm_", _clip_in_a_loop_of_recbole)


def _clip_in_a_loop_of_recbole(parameters: Iterable[nn.Parameter], *args, **kwargs) -> Tensor:
    # the loops of Trainer and NCLTrainer pass neither their scaler nor the optimizer whose gradients it scales; without
    # looking at their frame, the loops would have to be copied
    loop = inspect.currentframe().f_back.f_locals
    if "scaler" not in loop:  # called from elsewhere
        return nn.utils.clip_grad_norm_(parameters, *args, **kwargs)
    return clip_gradients(parameters, loop["scaler"], loop["self"].optimizer, *args, **kwargs)


def clip_gradients(
    parameters: Iterable[nn.Parameter], scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, *args, **kwargs
) -> Tensor:
    """Undo the scaling of the gradients and clip them, between ``backward`` and ``scaler.step(optimizer)``.

    Args:
        parameters: their gradients are clipped together; a sparse gradient counts with its sums per row.
        scaler: has scaled the gradients unless it is disabled.
        optimizer: takes the step.
        args, kwargs: of :func:`torch.nn.utils.clip_grad_norm_`.

    Returns:
        The norm of the unscaled gradients before clipping, a scalar.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    scaler.unscale_(optimizer)
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    # gradients for another optimizer (RecVAE has one for each half) stay scaled, because more are added to them
    of_others = [parameter.grad for parameter in parameters if id(parameter) not in stepped]
    scale = scaler.get_scale() if of_others else 1.0
    for grad in of_others:
        grad.div_(scale)
    norm = nn.utils.clip_grad_norm_([_dense(parameter) for parameter in parameters], *args, **kwargs)
    for grad in of_others:
        grad.mul_(scale)
    return norm


def _dense(parameter: nn.Parameter) -> Any:
    """An object that torch can clip: the parameter, or the values of its sparse gradient."""
    if not parameter.grad.is_sparse:
        return parameter
    parameter.grad = parameter.grad.coalesce()
    return SimpleNamespace(grad=parameter.grad._values())
