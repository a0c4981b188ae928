"""Diffusion over rows of interactions (DiffRec, arXiv 2304.04971), as DiffMM uses it."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# share of noise in the first step and largest share in any, in the published code
_FIRST, _LARGEST = 1e-4, 0.999


class Diffusion(nn.Module):
    """The noise of each step, linear in the variance, and the posterior that undoes a step.

    The constants are computed in float64. No buffer is saved with a model.

    Args:
        steps: number of steps.
        scale, least, largest: the variance grows from ``scale * least`` to ``scale * largest``.
    """

    signal: Tensor
    noise: Tensor
    weights: Tensor
    of_clean: Tensor
    of_noisy: Tensor

    def __init__(self, steps: int, scale: float, least: float, largest: float) -> None:
        super().__init__()
        self.steps = steps
        planned = 1.0 - np.linspace(scale * least, scale * largest, steps)
        betas = np.minimum(1.0 - planned / np.concatenate([[1.0], planned[:-1]]), _LARGEST)
        betas[0] = _FIRST
        kept = np.cumprod(1.0 - betas)
        before = np.concatenate([[1.0], kept[:-1]])
        ratio = kept / (1.0 - kept)
        constants = {
            "betas": betas,
            # shares of the signal and of the noise after each step: in float32, 1 - kept would lose four digits
            "signal": np.sqrt(kept),
            "noise": np.sqrt(1.0 - kept),
            # what a step loses of the ratio of signal to noise, as its weight in the loss
            "weights": np.concatenate([[1.0], ratio[:-1] - ratio[1:]]),
            "of_clean": betas * np.sqrt(before) / (1.0 - kept),
            "of_noisy": (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - kept),
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def noisy(self, rows: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """Rows ``(B, n)`` after as many steps as each has, ``(B,)``, with standard normal ``noise``."""
        return self.signal[steps, None] * rows + self.noise[steps, None] * noise

    def denoised(self, denoiser: Denoiser, rows: Tensor) -> Tensor:
        """The mean of the reverse process from the last step to the first, ``(B, n)`` -> the same shape."""
        for step in reversed(range(self.steps)):
            steps = torch.full((len(rows),), step, device=rows.device)
            rows = self.of_clean[step] * denoiser(rows, steps).float() + self.of_noisy[step] * rows
        return rows


class Denoiser(nn.Module):
    """Clean rows from noisy ones and their steps: ``W_2 tanh(W_1 [x | embedded step] + b_1) + b_2``.

    Args:
        width: of a row.
        hidden: width of the hidden layer.
        step_size: width of the embedding of a step.
        unit_rows: divide rows by their lengths first.
    """

    def __init__(self, width: int, hidden: int, step_size: int, unit_rows: bool) -> None:
        super().__init__()
        self.step_size, self.unit_rows = step_size, unit_rows
        self.embedding = nn.Linear(step_size, step_size)
        self.input, self.output = nn.Linear(width + step_size, hidden), nn.Linear(hidden, width)
        for layer in (self.embedding, self.input, self.output):
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / sum(layer.weight.shape)))
            nn.init.normal_(layer.bias, std=0.001)

    def forward(self, rows: Tensor, steps: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, n)`` and ``(B,)`` -> ``(B, n)``; ``mask``, if any, is dropout's for the rows."""
        half = self.step_size // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=rows.device) / max(half, 1))
        angles = steps[:, None] * frequencies
        waves = F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, self.step_size - 2 * half))
        if self.unit_rows:
            rows = F.normalize(rows, dim=1)
        if mask is not None:
            rows = rows * mask
        return self.output(torch.tanh(self.input(torch.cat([rows, self.embedding(waves)], dim=1))))
