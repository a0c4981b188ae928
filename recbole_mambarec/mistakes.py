"""A user's mistakes that only RecBole notices, while it reads and splits the data, builds a model or starts to train.

RecBole raises exceptions of all types for them, in the middle of a traceback. :func:`explained` recognises those that
can only come from the input: errors that RecBole raises on purpose, a missing package, a missing column. Everything
else is a defect of RecBole or this package, and keeps its traceback.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from recbole_mambarec.compat.patching import replace, wrap
from recbole_mambarec.errors import UserError
from recbole_mambarec_command.requirements import broken_package, broken_sentence

# module -> name of the package for pip, where the two differ
_DISTRIBUTIONS = {
    "community": "python-louvain",
    "faiss": "faiss-cpu",
    "kmeans_pytorch": "kmeans-pytorch",
    "torch_scatter": "torch-scatter",
    "torch_geometric": "torch-geometric",
    "sklearn": "scikit-learn",
}
# types of errors that RecBole raises on purpose; its assertions and look-ups are not meant as messages
_REFUSALS = (Exception, ValueError, NotImplementedError, TypeError, RuntimeError, ImportError)


def install() -> None:
    """Let RecBole's quick start explain mistakes in one sentence; a second call changes nothing."""
    import recbole.quick_start.quick_start as quick_start

    package = sys.modules["recbole.quick_start"]
    for name in ("run_recbole", "objective_function"):
        wrap(quick_start, name, _with_mistakes_explained)
        if hasattr(package, name):
            replace(package, name, getattr(quick_start, name))


def _with_mistakes_explained(original: Callable, *args, **kwargs):
    with mistakes_explained():
        return original(*args, **kwargs)


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """Raise a :class:`UserError` inside the block for errors that :func:`explained` recognises."""
    try:
        yield
    except Exception as error:
        _raise_explained(error)


@contextmanager
def user_errors_of_recbole() -> Iterator[None]:
    """Like :func:`mistakes_explained`, also for files that cannot be written and for errors of a child process."""
    from torch.multiprocessing import ProcessRaisedException

    try:
        yield
    except OSError as error:
        # a folder for logs or checkpoints cannot be written, the disk is full: the system's message explains it best
        raise UserError(f"{error.strerror or error}: {error.filename or 'while writing'}") from error
    except ProcessRaisedException as error:
        # a child's exception arrives as the text of its traceback
        last = str(error).strip().splitlines()[-1]
        name, _, sentence = last.partition(": ")
        if name != f"{UserError.__module__}.{UserError.__name__}":
            raise
        raise UserError(sentence) from error
    except Exception as error:
        _raise_explained(error)


def _raise_explained(error: Exception) -> NoReturn:
    """Raise a :class:`UserError` with the sentence of :func:`explained`, or ``error`` itself if there is none."""
    sentence = None if isinstance(error, UserError) else explained(error)
    if sentence is None:
        raise error
    raise UserError(sentence) from error


def not_installed(what: str, modules: Sequence[str]) -> str:
    """A sentence about missing packages.

    Args:
        what: needs them.
        modules: their names in import statements.
    """
    names = [_DISTRIBUTIONS.get(module, module) for module in modules]
    noun = "the package" if len(names) == 1 else "the packages"
    which = "which is" if len(names) == 1 else "which are"
    return f"{what} needs {noun} {' and '.join(names)}, {which} not installed: pip install {' '.join(names)}"


def explained(error: BaseException) -> str | None:
    """A sentence about the mistake in configuration or data behind ``error``; None if it may be a defect."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return None
    frame, line = frames[-1]
    if isinstance(error, ModuleNotFoundError):
        by_recbole = any(_module(f).startswith("recbole.") for f, _ in frames)
        module = (error.name or "").partition(".")[0]
        if not by_recbole or module in ("", "recbole", "recbole_mambarec"):
            return None
        return not_installed(_model_name(frames), [module])
    broken = broken_package(error)
    if broken not in (None, "recbole") and any(_module(f).startswith("recbole.") for f, _ in frames):
        return f"{_model_name(frames)} needs the package {broken_sentence(broken, error)}"
    if isinstance(error, KeyError) and _module(frame) == "recbole.data.interaction":
        return _missing_column(str(error.args[0]), frames)
    if type(error) in _REFUSALS and _is_raised_on_purpose(frame, line):
        message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return f"RecBole refuses this configuration or these data ({message}): change what it names"
    return None


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")


def _is_raised_on_purpose(frame: FrameType, line: int) -> bool:
    """Whether an exception comes from a ``raise`` statement of RecBole."""
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    return _module(frame).startswith("recbole.") and re.match(r"raise\b", text) is not None


def _model_name(frames: list[tuple[FrameType, int]]) -> str:
    """The name of the model that the frames belong to, if it can be found."""
    from recbole.model.abstract_recommender import AbstractRecommender

    for frame, _ in frames:
        owner = frame.f_locals.get("self")
        if isinstance(owner, AbstractRecommender):
            return type(owner).__name__
    return "this model"


def _missing_column(column: str, frames: list[tuple[FrameType, int]]) -> str | None:
    """A sentence about a column that a model reads and a batch lacks; None if it may be a defect."""
    from recbole.config import Config
    from recbole.trainer import Trainer

    owners = (frame.f_locals.get("self") for frame, _ in frames)
    configs = [owner.config for owner in owners if isinstance(owner, Trainer)]
    configs += [frame.f_locals["config"] for frame, _ in frames if "config" in frame.f_locals]
    config = next((found for found in configs if isinstance(found, Config)), None)
    if config is None:
        return None
    model, dataset = config["model"], config["dataset"]
    if column.startswith(str(config["NEG_PREFIX"])):
        return (
            f"{model} learns from negative items, which train_neg_sample_args leaves out: "
            "set it, for instance to {'distribution': 'uniform', 'sample_num': 1}"
        )
    if column == config["LABEL_FIELD"]:
        return (
            f"{model} learns from labels, and '{dataset}' has none in '{column}': make labels with threshold, such as "
            "{'rating': 4}, or sample negative items with train_neg_sample_args={'distribution': 'uniform', "
            "'sample_num': 1}"
        )
    return f"{model} needs the column '{column}', which '{dataset}' does not have or load_col does not name: add it"
