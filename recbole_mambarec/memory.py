"""Peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

import torch


def peak_gib(device: torch.device | None = None) -> float:
    """Largest memory so far, in GiB: resident memory of the process, or what torch held on a CUDA ``device``.

    Linux's own count of this program is preferred: ``getrusage`` also reports what the parent held when it started us.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
