"""Configuration among the arguments of a command: ``--key=value``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from recbole_mambarec_common.errors import UserError

#: keys that do not change what a model learns, only how items and users without training interactions are scored
SCORING_KEYS = ("cold_items", "cold_scale", "cold_users", "user_features", "user_neighbours")


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


def check_changeable(keys: Iterable[str], allowed: Sequence[str] = SCORING_KEYS) -> None:
    """Refuse keys that cannot be given to a trained model.

    Raises:
        UserError: one of the keys is not among ``allowed``.
    """
    for key in keys:
        if key not in allowed:
            near = difflib.get_close_matches(key.replace("-", "_"), allowed, n=1, cutoff=0.6)
            advice = f"did you mean --{near[0]}? Besides" if near else "besides"
            raise UserError(
                f"--{key} is not understood: {advice} the options of this command (--help), a trained model can only "
                f"be given other values of {', '.join(allowed)}"
            )
