"""A progress bar for work that may take long: silent when it is short or when nobody watches."""

from __future__ import annotations

from tqdm import tqdm


def bar(description: str, total: int | None, unit: str) -> tqdm:
    """A bar that shows after two seconds, on terminals only; use it as a context manager."""
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
