"""A progress bar for work that may take long; silent if the work is short or the output is not a terminal."""

from __future__ import annotations

from tqdm import tqdm


def bar(description: str, total: int | None, unit: str) -> tqdm:
    """A bar that appears after two seconds, and only on a terminal; use it as a context manager."""
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        delay=2,
        disable=None,
        leave=False,
        dynamic_ncols=True,
    )
