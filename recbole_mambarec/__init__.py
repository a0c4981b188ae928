"""Multimodal recommendation models for RecBole; importing this package registers them and patches RecBole."""

from __future__ import annotations

import sys
from os import PathLike
from typing import TYPE_CHECKING

from recbole_mambarec_command import __version__, requirements

if TYPE_CHECKING:
    from recbole_mambarec.recommend.recommender import Recommender

__all__ = ["Recommender", "__version__", "register", "start"]


def __getattr__(name: str) -> object:
    # what recommends is imported when it is used
    if name == "Recommender":
        from recbole_mambarec.recommend.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def start() -> None:
    """Patch RecBole and register the models; importing this package calls it, and a second call changes nothing.

    Raises:
        MissingRequirement: a required package is missing or broken (an ImportError whose message is one sentence).
    """
    requirements.check()
    try:
        from recbole_mambarec import patches

        patches.apply()
    except Exception as error:
        missing = requirements.explained(error)
        if missing is None:
            raise
        raise missing from error


def register(
    model: type | str,
    *,
    trainer: type | str | None = None,
    dataset: type | str | None = None,
    defaults: str | PathLike | None = None,
    search_space: str | PathLike | None = None,
    presets: str | PathLike | None = None,
    published: str | PathLike | None = None,
    adapter: str | None = None,
) -> None:
    """Register a model of another package under the name of its class.

    If a package calls this when it is imported, and announces the model by an entry point of the group
    ``recbole_mambarec.models``, the model is found wherever a model can be named, without an import by the user::

        [project.entry-points."recbole_mambarec.models"]
        TheirModel = "their_package"

    Args:
        model: the class, or ``module:class``, which is imported when the model is used.
        trainer, dataset: classes, likewise; unset: those of this package's models.
        defaults: YAML file of the model's keys and their defaults.
        search_space: file of the parameters that a search varies, in the format of RecBole's ``params_file``.
        presets: YAML file of published best settings per data set, in the form of ``properties/preset``.
        published: folder of files ``<dataset>.yaml`` with published scores, in the form of ``properties/published``.
        adapter: ``module:attribute`` of an :class:`~recbole_mambarec.testing.parity.Adapter`.

    Relative paths start at the folder of the model's top-level package.

    Raises:
        ValueError: the name is taken, in upper or lower case; or a file does not exist (a ``UserError``).
    """
    from recbole_mambarec import registry

    registry.register_outside(
        model,
        {"trainer": trainer, "dataset": dataset, "adapter": adapter},
        {"defaults": defaults, "search_space": search_space, "presets": presets, "published": published},
    )


def _module_to_run() -> str | None:
    """The module that ``python -m`` is about to run; None where a program imports this package."""
    # sys.argv[0] is "-m" while Python locates the module: https://docs.python.org/3/using/cmdline.html#cmdoption-m
    return sys.orig_argv[-len(sys.argv)].replace("-m", "", 1) if sys.argv[:1] == ["-m"] else None


def _start_or_exit() -> None:
    """Start for a module that is run as a command: a missing requirement is printed as one sentence."""
    try:
        start()
    except requirements.MissingRequirement as missing:
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(2)


requirements.check_python()
_module = _module_to_run()
if _module is None:
    start()
elif _module != __name__:
    # python -m recbole_mambarec itself calls start() when a command needs it
    _start_or_exit()
