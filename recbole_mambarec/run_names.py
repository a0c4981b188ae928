"""Names of a run's files: checkpoint, log and TensorBoard folder belong to one run, whenever and wherever it starts."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from recbole_mambarec.compat.patching import wrap


def install() -> None:
    """Make the names unique; a second call changes nothing.

    RecBole names what a run writes after the second in which it starts, so that two runs that start together overwrite
    each other's checkpoint and are tested with each other's parameters, or end at a file that is gone. Where RecBole
    builds such a name, it gets the time with a random part; ``recbole.utils.get_local_time`` stays what it is. Several
    processes of one run share the first one's name (:func:`recbole_mambarec.compat.distributed.one_checkpoint`).

    Two trainers can also share a TensorBoard folder because RecBole cuts its name at the first dot, which a dataset's
    name may have.

    No upstream issue known.
    """
    for name in ("trainer.trainer", "utils.logger", "utils.utils"):
        wrap(importlib.import_module(f"recbole.{name}"), "get_local_time", _unique_time)
    wrap(importlib.import_module("recbole.trainer.trainer"), "get_tensorboard", _whole_name)


def _unique_time(original: Callable) -> str:
    # the system's randomness: a run's seed must not decide, and the processes of other machines draw other numbers
    return f"{original()}-{secrets.token_hex(5)}"


def _whole_name(original: Callable, logger):
    files = [Path(h.baseFilename).stem for h in logger.handlers if hasattr(h, "baseFilename")]
    return original(SimpleNamespace(handlers=[SimpleNamespace(baseFilename=name.replace(".", "_")) for name in files]))
