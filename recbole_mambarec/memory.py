"""Memory that processes take, and what is left for more of them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import torch

_OWN_GROUPS = Path("/proc/self/cgroup")


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


def held_gib(pid: int) -> float:
    """Resident memory of a process at the moment, in GiB; 0 for one that has ended."""
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss / 2**30
    except psutil.Error:
        return 0.0


def available_gib(control_groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that new processes can take without swapping, in GiB; the limit of a container counts."""
    import psutil

    left = [psutil.virtual_memory().available]
    for limit, folder in _limits(control_groups):
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        # files that were read stay in memory until it is needed
        left.append(max(0, limit - used + _cached(folder / "memory.stat")))
    return min(left) / 2**30


def total_gib(control_groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that processes can ever have on this machine or in this container, in GiB."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(control_groups))]) / 2**30


def _limits(root: Path) -> Iterator[tuple[int, Path]]:
    """Limit in bytes and folder of the control groups of this process, in both of Linux's layouts."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):
            base = root / controllers
            own = base / group.lstrip("/")
            # inside a container the group may be named as seen from outside, and the limit may be a parent's
            for folder in {base, own, *(parent for parent in own.parents if base in parent.parents)}:
                limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
                if limit:
                    yield limit, folder


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cached(file: Path) -> int:
    try:
        counts = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
    except OSError:
        return 0
    return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
