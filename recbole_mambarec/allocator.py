"""Keep memory between training steps."""

from __future__ import annotations

import ctypes
import os
import sys

# parameters of glibc's mallopt
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the C library reuse the memory of freed tensors instead of returning it to the kernel; True where it does.

    By default glibc gives blocks from 32 MiB on, and a free end of the heap, back at once. A training step allocates
    and frees the same few hundred MiB each time, and on a CPU the page faults of getting it anew took up to a third of
    a step. Peak memory stays what it was; between steps it is not given back. Does nothing where another C library is
    used, or where the user has set one of glibc's ``MALLOC_*`` variables.

    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    answers = [mallopt(parameter, 2**31 - 1) for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)]
    return all(answers)
