"""Fusion of modality views under the guidance of behaviour (MGCN, arXiv 2308.03588; MambaRec, arXiv 2509.09114)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn


class BehaviourGuidedFusion(nn.Module):
    """What the modalities share plus what each adds, the latter gated by the behaviour view.

    With scores ``a_m = q . tanh(W x_m + b)`` and their softmax ``w`` over modalities, ``common = sum_m w_m x_m`` and
    ``separate_m = sigmoid(G_m h + g_m) * (x_m - common)``; the result is ``(sum_m separate_m + common) / (M + 1)``.
    A single modality is returned as it is; without modalities the result is the behaviour view.

    Args:
        dim: embedding width d.
        modalities: names of the M modalities.
        gated: False: ``separate_m`` is ``x_m - common`` (SOIL).
    """

    def __init__(self, dim: int, modalities: Sequence[str], gated: bool = True) -> None:
        super().__init__()
        self.attention: nn.Module | None = None
        self.preference = nn.ModuleDict()
        if len(modalities) > 1:
            self.attention = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))
            if gated:
                self.preference.update({name: nn.Linear(dim, dim) for name in modalities})

    def forward(self, views: Mapping[str, Tensor], behaviour: Tensor) -> Tensor:
        """Fuse ``views`` (modality -> ``(n, d)``) with ``behaviour`` ``(n, d)`` into ``(n, d)``."""
        if not views:
            return behaviour
        if self.attention is None:
            return next(iter(views.values()))
        scores = torch.cat([self.attention(view) for view in views.values()], dim=1)
        weights = scores.softmax(dim=1)
        common = cast(Tensor, sum(weights[:, m, None] * view for m, view in enumerate(views.values())))
        if self.preference:
            separate = sum(torch.sigmoid(self.preference[m](behaviour)) * (view - common) for m, view in views.items())
        else:
            separate = sum(views.values()) - len(views) * common
        return (separate + common) / (len(views) + 1)
