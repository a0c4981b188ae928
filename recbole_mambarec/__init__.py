"""Multimodal recommendation models for RecBole: importing this package makes RecBole know them."""

import sys

from recbole_mambarec_command import __version__, requirements

__all__ = ["__version__", "start"]


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
