"""What a run is made with: versions of the libraries, the revision of this package's source tree, and the device."""

from __future__ import annotations

import contextlib
import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("recbole_mambarec", "torch", "recbole", "numpy", "scipy", "pandas")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed :data:`LIBRARIES`, on which a result depends."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def device_name(device: torch.device) -> str:
    """``cpu``, or the name of the GPU, as records have it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@functools.cache
def git_state() -> dict | None:
    """``revision`` of the source tree that this package runs from, and whether it is ``dirty``; None if installed."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # git does not track an installed package that lies inside someone else's repository
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--", ".", "../properties")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None
