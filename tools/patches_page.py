"""The list of patches as a page: ``python -m tools.patches_page`` writes docs/patches.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_mambarec import patches
from recbole_mambarec.compat.patching import Patch
from tools.markdown import table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "patches.md"

_HEAD = """\
# What is changed in RecBole

Importing `recbole_mambarec` changes RecBole 1.2.1 in memory, never its files. These are all changes, in the order in
which they are made; each function says more in its docstring. The list is
[recbole_mambarec/patches.py](../recbole_mambarec/patches.py); `python -m tools.patches_page` writes this page, and the
tests compare both with what really changes in RecBole.

`recbole.trainer.trainer.torch.load` is what that one module sees as `torch.load`; all other code sees the real one.
"""

_PROCESS = """\

## What other code in the process notices

Everything else affects code of RecBole only.

"""

_OTHERS = """\

Besides, training a model of this package tells the C library to keep freed memory
([recbole_mambarec/allocator.py](../recbole_mambarec/allocator.py)), and RecBole itself sets up the root logger, the
seeds of all random generators, and deterministic algorithms.
"""


def page(listed: Sequence[Patch] = patches.PATCHES) -> str:
    """The page, Markdown."""
    compat = [patch for patch in listed if patch.function.startswith("recbole_mambarec.compat.")]
    features = [patch for patch in listed if patch not in compat]
    text = _HEAD
    text += "\n## To run with today's libraries\n\n" + _table(compat)
    text += "\n## For the features of this package\n\n" + _table(features)
    text += _PROCESS
    text += "".join(f"* {_function(patch)}: {patch.process_wide}\n" for patch in listed if patch.process_wide)
    return text + _OTHERS


def _table(listed: Sequence[Patch]) -> str:
    rows = []
    for patch in listed:
        targets = "<br>".join(f"`{target}`" for target in patch.targets) or "nothing"
        condition = f" ({patch.condition})" if patch.condition else ""
        rows.append((_function(patch), patch.why + condition, targets))
    return table(("Function", "Why", "What it replaces"), rows)


def _function(patch: Patch) -> str:
    module, _, name = patch.function.partition(":")
    return f"[{module.removeprefix('recbole_mambarec.')}.{name}](../{module.replace('.', '/')}.py)"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
