"""Unique names for the files of a run: checkpoint, log and TensorBoard folder."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from recbole_mambarec.compat.patching import wrap


def install() -> None:
    """Make the names unique; a second call changes nothing.

    RecBole names the files of a run after the second in which it starts. Two runs that start in the same second
    overwrite each other's checkpoint and are tested with each other's parameters, or do not find their file. Where
    RecBole builds such a name, a random part is now appended to the time; ``recbole.utils.get_local_time`` is
    unchanged. The processes of one run share the first one's name
    (:func:`recbole_mambarec.compat.distributed.one_checkpoint`).

    Besides, RecBole cuts the name of the TensorBoard folder at the first dot, and a dataset's name may contain one.

    No upstream issue known.
    """
    for name in ("trainer.trainer", "utils.logger", "utils.utils"):
        wrap(importlib.import_module(f"recbole.{name}"), "get_local_time", _unique_time)
    wrap(importlib.import_module("recbole.trainer.trainer"), "get_tensorboard", _whole_name)


def _unique_time(original: Callable) -> str:
    # from the system, because runs with the same seed must get different names
    return f"{original()}-{secrets.token_hex(5)}"


def _whole_name(original: Callable, logger):
    files = [Path(h.baseFilename).stem for h in logger.handlers if hasattr(h, "baseFilename")]
    return original(SimpleNamespace(handlers=[SimpleNamespace(baseFilename=name.replace(".", "_")) for name in files]))
