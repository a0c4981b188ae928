"""torch 2.4 and newer; loading checkpoints has a module of its own (:mod:`~recbole_mambarec.compat.checkpoints`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from recbole_mambarec.compat.patching import overlay, wrap


def grad_scaler() -> None:
    """Build gradient scalers without the warning that torch 2.4 and newer give in every epoch.

    The trainer calls ``torch.cuda.amp.GradScaler``, deprecated in favour of ``torch.amp.GradScaler("cuda")``, its base
    class. Without a GPU, the scaler is one for the CPU.

    No upstream issue of its own known; seen in https://github.com/RUCAIBox/RecBole/issues/2154
    """
    if hasattr(torch.amp, "GradScaler"):
        overlay(importlib.import_module("recbole.trainer.trainer"), "amp", GradScaler=_grad_scaler)


def _grad_scaler(*args, **kwargs) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cuda" if torch.cuda.is_available() else "cpu", *args, **kwargs)


def sparse_products_under_autocast() -> None:
    """Let LightGCN train with ``enable_amp`` on a CPU: its propagation stays in float32.

    Autocast casts the dense operand of ``torch.sparse.mm`` to bfloat16, and the backward pass of the sparse product
    then fails with "expected scalar type Float but found BFloat16". The rest of a step is still autocast.

    No upstream issue known.
    """
    model = importlib.import_module("recbole.model.general_recommender.lightgcn").LightGCN
    wrap(model, "forward", _forward_in_float32)


def _forward_in_float32(original: Callable, self, *args, **kwargs):
    with torch.autocast(self.device.type, enabled=False):
        return original(self, *args, **kwargs)
