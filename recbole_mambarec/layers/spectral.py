"""The discrete cosine transform, by FFT, differentiable."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of each row of ``(n, D)``."""
    size = x.shape[1]
    # Makhoul (1980): even coordinates forwards, odd ones backwards, one complex transform of the same length
    folded = torch.cat([x[:, ::2], x[:, 1::2].flip(1)], dim=1)
    return (torch.fft.fft(folded.float()) * _twiddles(size, x.device)).real * _scales(size, x.device)


def idct(x: Tensor) -> Tensor:
    """Inverse of :func:`dct`, which is its transpose."""
    size = x.shape[1]
    spectrum = (x.float() / _scales(size, x.device)).to(torch.complex64)
    mirrored = torch.cat([torch.zeros_like(spectrum[:, :1]), spectrum[:, 1:].flip(1)], dim=1)
    folded = torch.fft.ifft((spectrum - 1j * mirrored) * _twiddles(size, x.device).conj()).real
    unfolded = torch.empty_like(folded)
    unfolded[:, ::2], unfolded[:, 1::2] = folded[:, : (size + 1) // 2], folded[:, (size + 1) // 2 :].flip(1)
    return unfolded


# once per device: what is copied to a device in a step makes the CPU wait
@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _twiddles(size: int, device: torch.device) -> Tensor:
    return torch.polar(
        torch.ones(size, dtype=torch.float64), -math.pi * torch.arange(size, dtype=torch.float64) / (2 * size)
    ).to(device, torch.complex64)


def _scales(size: int, device: torch.device) -> Tensor:
    scales = torch.full((size,), math.sqrt(2 / size), device=device)
    scales[0] = math.sqrt(1 / size)
    return scales
