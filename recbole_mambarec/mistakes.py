"""A user's mistakes that only RecBole notices, while it reads, splits, builds or takes its first step.

RecBole refuses them with exceptions of all kinds, in the middle of a traceback. :func:`explained` knows those that can
only come from the input: what RecBole's own code raises on purpose, a package that is not installed, a column that a
model asks a batch for. Everything else is a defect, of RecBole's or ours, and keeps its traceback.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from recbole_mambarec.compat.patching import replace, wrap
from recbole_mambarec.errors import UserError
from recbole_mambarec_command.requirements import broken_package, broken_sentence

# what pip calls packages that are imported under another name
_DISTRIBUTIONS = {
    "community": "python-louvain",
    "faiss": "faiss-cpu",
    "kmeans_pytorch": "kmeans-pytorch",
    "torch_scatter": "torch-scatter",
    "torch_geometric": "torch-geometric",
    "sklearn": "scikit-learn",
}
# what RecBole raises where it refuses its input; its `assert`s and look-ups are not meant as messages
_REFUSALS = (Exception, ValueError, NotImplementedError, TypeError, RuntimeError, ImportError)


def install() -> None:
    """Let RecBole's quick start say mistakes in one sentence; a second call changes nothing."""
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
    """Turn what :func:`explained` knows into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = explained(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def not_installed(what: str, modules: Sequence[str]) -> str:
    """The sentence about packages, by the names they are imported under, that ``what`` needs."""
    names = [_DISTRIBUTIONS.get(module, module) for module in modules]
    noun = "the package" if len(names) == 1 else "the packages"
    which = "which is" if len(names) == 1 else "which are"
    return f"{what} needs {noun} {' and '.join(names)}, {which} not installed: pip install {' '.join(names)}"


def explained(error: BaseException) -> str | None:
    """One sentence about a mistake in configuration or data that ``error`` shows; None where it may be a defect."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return None
    frame, line = frames[-1]
    if isinstance(error, ModuleNotFoundError):
        asked = [f for f, _ in frames if _module(f).startswith("recbole.")]
        module = (error.name or "").partition(".")[0]
        if not asked or module in ("", "recbole", "recbole_mambarec"):
            return None
        return not_installed(_who(frames), [module])
    broken = broken_package(error)
    if broken not in (None, "recbole") and any(_module(f).startswith("recbole.") for f, _ in frames):
        return f"{_who(frames)} needs the package {broken_sentence(broken, error)}"
    if isinstance(error, KeyError) and _module(frame) == "recbole.data.interaction":
        return _missing_column(str(error.args[0]), frames)
    if type(error) in _REFUSALS and _is_raised_on_purpose(frame, line):
        said = " ".join(str(error).split()).rstrip(".")
        return f"RecBole refuses this configuration or these data ({said or type(error).__name__}): mend what it names"
    return None


def _module(frame) -> str:
    return frame.f_globals.get("__name__", "")


def _is_raised_on_purpose(frame, line: int) -> bool:
    """Whether the line of RecBole that an exception comes from is a ``raise`` statement."""
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    return _module(frame).startswith("recbole.") and re.match(r"raise\b", text) is not None


def _who(frames: list[tuple]) -> str:
    """The model, as far as the frames tell."""
    from recbole.model.abstract_recommender import AbstractRecommender

    for frame, _ in frames:
        asked = frame.f_locals.get("self")
        if isinstance(asked, AbstractRecommender):
            return type(asked).__name__
    return "this model"


def _missing_column(column: str, frames: list[tuple[object, int]]) -> str | None:
    """A model asks a batch for a column that it does not have."""
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
            "give it, such as {'distribution': 'uniform', 'sample_num': 1}"
        )
    if column == config["LABEL_FIELD"]:
        return (
            f"{model} learns from labels, and '{dataset}' has none in '{column}': make them with threshold, such as "
            "{'rating': 4}, or draw negative items with train_neg_sample_args={'distribution': 'uniform', "
            "'sample_num': 1}"
        )
    return f"{model} needs the column '{column}', which '{dataset}' does not have or load_col does not name: add it"
