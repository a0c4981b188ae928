"""Multimodal recommendation models for RecBole: importing this package makes RecBole know them."""

import sys
from os import PathLike

from recbole_mambarec_command import __version__, requirements

__all__ = ["__version__", "register", "start"]


def start() -> None:
    """Mend RecBole and make it know the models: importing this package does it, and a second call changes nothing.

    Raises:
        MissingRequirement: what is needed is not installed or broken (an ImportError, its message is one sentence).
    """
    requirements.check()
    try:
        _start()
    except Exception as error:
        missing = requirements.explained(error)
        if missing is None:
            raise
        raise missing from error


def _start() -> None:
    from recbole_mambarec import compat

    compat.apply()

    # RecBole can be imported only now
    from recbole_mambarec import (
        case_study,
        clipping,
        config,
        mistakes,
        patience,
        protocol,
        registry,
        resume,
        run_names,
    )
    from recbole_mambarec.data import checks, loading, reading, reuse, split_check, time_order

    config.install()
    run_names.install()
    clipping.install()
    case_study.install()
    protocol.install()
    patience.install()
    resume.install()
    loading.install()
    checks.install()
    reading.install()
    time_order.install()
    reuse.install()
    split_check.install()
    mistakes.install()
    registry.register_built_in()


def register(
    model: type | str,
    *,
    trainer: type | str | None = None,
    dataset: type | str | None = None,
    defaults: str | PathLike | None = None,
    search_space: str | PathLike | None = None,
    published: str | PathLike | None = None,
    adapter: str | None = None,
) -> None:
    """Make a model of another package known under the name of its class.

    A package that calls this where it is imported, and names itself in an entry point of the group
    ``recbole_mambarec.models``, has its model found everywhere without being imported by the user::

        [project.entry-points."recbole_mambarec.models"]
        TheirModel = "their_package"

    Args:
        model: the class, or ``module:class``, which is imported when the model is used.
        trainer, dataset: classes, likewise; unset: those of this package's models.
        defaults: YAML file of the model's keys and their defaults.
        search_space: file of what a search varies, in the format of RecBole's ``params_file``.
        published: folder of files ``<dataset>.yaml`` with published scores, in the form of ``properties/published``.
        adapter: ``module:attribute`` of an :class:`~recbole_mambarec.testing.parity.Adapter`.

    Paths that are not absolute start at the folder of the model's top-level package.

    Raises:
        ValueError: the name, whatever its case, is taken; or a file is not there (a ``UserError``).
    """
    from recbole_mambarec import registry

    registry.register_outside(
        model,
        {"trainer": trainer, "dataset": dataset, "adapter": adapter},
        {"defaults": defaults, "search_space": search_space, "published": published},
    )


def _module_to_run() -> str | None:
    """The module that Python is about to run by ``python -m``; None where this package is imported by a program."""
    # "-m" stands there while a module is being located: https://docs.python.org/3/using/cmdline.html#cmdoption-m
    return sys.orig_argv[-len(sys.argv)].replace("-m", "", 1) if sys.argv[:1] == ["-m"] else None


def _start_or_exit() -> None:
    """Start for a module that is a command of its own, whose user gets a sentence in place of an exception."""
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
    # python -m recbole_mambarec itself starts where it needs it
    _start_or_exit()
