"""Keep memory in the process between training steps."""

from __future__ import annotations

import ctypes
import os
import sys

# parameters of glibc's mallopt
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the C library reuse the memory of freed tensors instead of returning it to the kernel.

    By default, glibc returns blocks of 32 MiB or more, and a free end of the heap, at once. A training step allocates
    and frees the same few hundred MiB each time, and on a CPU the page faults of getting them again took up to a third
    of a step. Peak memory is the same; between steps, memory is kept. Nothing happens with another C library, or if the
    user has set one of glibc's ``MALLOC_*`` variables.

    Returns:
        Whether memory is kept.

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
