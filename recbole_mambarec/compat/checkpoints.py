"""Which checkpoints RecBole may load: those of plain values, its own of this process, and those that the user trusts.

A pickle runs whatever code it holds, and RecBole pickles its whole ``Config`` into every checkpoint. Since torch 2.6,
``torch.load`` refuses such files, so that no training ends with its best model and nothing can be resumed. Switching
the check off (``weights_only=False``) would let any file run any code. :func:`load_checkpoint` therefore

- loads a file of plain values;
- else loads a file that this process has written through RecBole, and that has not changed since, in full;
- else, with ``RECBOLE_MAMBAREC_TRUST_CHECKPOINTS=1``, loads any file in full;
- else refuses the file with a :class:`UserError`, as it does for a missing or damaged one.

Older versions of torch load any file in full; the rules are the same there.

https://github.com/RUCAIBox/RecBole/issues/2215, https://github.com/RUCAIBox/RecBole/issues/2212
"""

from __future__ import annotations

import importlib
import os
import pickle
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from recbole_mambarec.compat.patching import overlay
from recbole_mambarec.errors import UserError

#: Set to ``1`` to let RecBole load checkpoints whose content can run code.
TRUST_VARIABLE = "RECBOLE_MAMBAREC_TRUST_CHECKPOINTS"

#: Modules of RecBole that load checkpoints with their global ``torch``; the quick start imports torch in a function.
LOADING_MODULES = (
    "recbole.trainer.trainer",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.sequential_recommender.s3rec",
)

_torch_load = torch.load
# real path -> device, inode, size and time of change of each file that this process has written through RecBole
_written: dict[str, tuple[int, ...]] = {}
_swap_lock = threading.RLock()


def trusted_loading() -> None:
    """Let the modules of RecBole load checkpoints by :func:`load_checkpoint` and save by :func:`save_checkpoint`."""
    for name in LOADING_MODULES:
        overlay(importlib.import_module(name), "torch", load=load_checkpoint, save=save_checkpoint)


def save_checkpoint(obj: object, f, *args, **kwargs) -> None:
    """``torch.save``; a file written by it can be loaded by :func:`load_checkpoint` in this process."""
    torch.save(obj, f, *args, **kwargs)
    if isinstance(f, (str, os.PathLike)):
        remember_checkpoint(f)


def remember_checkpoint(path: str | os.PathLike) -> None:
    """Trust the file ``path`` in this process as long as it stays as it is now."""
    _written[os.path.realpath(path)] = _state(os.stat(path))


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def load_checkpoint(f, *args, **kwargs):
    """``torch.load`` under the rules of this module.

    Args:
        f: path or open file; of an open file, only plain values are loaded.
        args, kwargs: of ``torch.load``; ``weights_only`` is ignored.

    Raises:
        UserError: the file is missing, damaged, or can run code and is not trusted.
    """
    kwargs.pop("weights_only", None)
    if f is None:
        raise UserError("no checkpoint is named that could be loaded: give the path of its file in the configuration")
    if not isinstance(f, (str, os.PathLike)):
        return _torch_load(f, *args, weights_only=True, **kwargs)
    path = os.fspath(f)
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below; only this line's OSError means "missing"
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be opened: {error.strerror or error}.") from error
    # the file that is checked is the one that is read: in between, the name may come to stand for another file
    with stream:
        trusted = _written.get(os.path.realpath(path)) == _state(os.fstat(stream.fileno()))
        trusted = trusted or os.environ.get(TRUST_VARIABLE) == "1"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about pickle protocol 4, which RecBole uses
                return _torch_load(stream, *args, weights_only=True, **kwargs)
        except Exception as error:
            failure = error
            if not trusted and isinstance(error, pickle.UnpicklingError) and _is_pickled(stream):
                raise UserError(
                    f"the checkpoint {path} holds more than plain values and was not written by this process; "
                    f"loading it would run code stored in it, so if you trust it, set {TRUST_VARIABLE}=1."
                ) from error
        if trusted:
            stream.seek(0)
            try:
                return _torch_load(stream, *args, weights_only=False, **kwargs)
            except Exception as error:
                failure = error
    # torch's advice for archives that cannot be read is for writers of archives
    reason = (str(failure).splitlines() or [""])[0].split(". ")[0].rstrip(".")
    raise UserError(
        f"the checkpoint {path} is damaged or not a checkpoint ({type(failure).__name__}: {reason})."
    ) from failure


def _is_pickled(stream) -> bool:
    """Whether the file has one of torch's two formats at all: a complete zip archive, or bare pickles."""
    stream.seek(0)
    first = stream.read(1)
    return first == pickle.PROTO or (first == b"P" and zipfile.is_zipfile(stream))


@contextmanager
def torch_load_replaced(load: Callable) -> Iterator[None]:
    """Make ``torch.load`` call ``load`` in this thread until the block ends; other threads get the one they know.

    For a function of RecBole that imports torch itself, where an overlay has no effect. Blocks of several threads run
    one after another.
    """
    thread = threading.get_ident()
    with _swap_lock:
        previous = torch.load

        def load_in_this_thread(*args, **kwargs):
            return (load if threading.get_ident() == thread else previous)(*args, **kwargs)

        torch.load = load_in_this_thread
        try:
            yield
        finally:
            torch.load = previous
