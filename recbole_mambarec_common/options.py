"""Configuration among the arguments of a command: ``--key=value``."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_mambarec_common.errors import UserError


def configuration(argv: Sequence[str], rest: Sequence[str]) -> dict[str, str]:
    """The configuration on a command line.

    Args:
        argv: all arguments of a command, or those that must not be repeated.
        rest: those that are not options of the command, ``--key=value``.

    Raises:
        UserError: an argument has another form, or is given more than once.
    """
    given = [argument.split("=")[0] for argument in argv if argument.startswith("--")]
    repeated = [key for key in given if given.count(key) > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is given more than once: give it once")
    for argument in rest:
        if not argument.startswith("--") or argument.count("=") != 1:
            raise UserError(f"argument '{argument}' is not understood: configuration is given as --key=value")
    return dict(argument.removeprefix("--").split("=") for argument in rest)
