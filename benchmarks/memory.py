"""Peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_gib() -> float:
    """Largest resident memory so far, in GiB.

    Linux's own count of this program is preferred: ``getrusage`` also reports what the parent held when it started us.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
