"""Search spaces: RecBole's params files, read without evaluating their text as code.

One parameter per line, ``name type value``, separated by blanks; a line that starts with ``#`` is a comment::

    mmd_weight choice [0.1, 0.15, 0.2]      one of these
    learning_rate loguniform -8,0           exp(x) with x between the two
    dropout_prob uniform 0,0.5              a number between the two
    embedding_size quniform 32,128,32       the same, rounded to multiples of the third; whole if all three are
"""

from __future__ import annotations

import ast
import importlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_mambarec.compat.patching import replace
from recbole_mambarec.errors import UserError

# type -> how many numbers follow it; None: a list of options
KINDS = {"choice": None, "uniform": 2, "quniform": 3, "loguniform": 2}
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Parameter:
    """One line of a params file: ``values`` are the options of a choice, else the numbers of the line."""

    name: str
    kind: str
    values: tuple

    def value(self, drawn: float) -> object:
        """The setting for what hyperopt has drawn, the index of an option or a number."""
        if self.kind == "choice":
            return as_setting(self.values[int(drawn)])
        if self.kind == "quniform" and all(isinstance(number, int) for number in self.values):
            return round(float(drawn))
        return float(drawn)

    def drawn(self, value: Any) -> float:
        """What hyperopt would have drawn for a setting; the inverse of :meth:`value`.

        Raises:
            ValueError: the setting is not one of the options.
        """
        if self.kind != "choice":
            return value
        return _typed([as_setting(option) for option in self.values]).index((type(value), value))


@dataclass(frozen=True)
class Space:
    """The parameters of a search, in the order of the file."""

    parameters: tuple[Parameter, ...]

    @property
    def size(self) -> int | None:
        """Number of points; None if a parameter is continuous."""
        if any(parameter.kind != "choice" for parameter in self.parameters):
            return None
        return math.prod(len(parameter.values) for parameter in self.parameters)

    def grid(self) -> Iterator[dict[str, object]]:
        """All points, the last parameter changing fastest.

        Raises:
            UserError: a parameter is not of the type ``choice``.
        """
        for parameter in self.parameters:
            if parameter.kind != "choice":
                raise UserError(
                    f"an exhaustive search needs the type choice for every parameter, but {parameter.name} is "
                    f"{parameter.kind}: use --algo=random or --algo=bayes"
                )
        return (
            {p.name: as_setting(option) for p, option in zip(self.parameters, options)}
            for options in itertools.product(*(parameter.values for parameter in self.parameters))
        )

    def as_dict(self) -> dict[str, dict[str, list]]:
        """The space as RecBole's ``params_dict``: type -> name -> values."""
        kinds: dict[str, dict[str, list]] = {}
        for parameter in self.parameters:
            kinds.setdefault(parameter.kind, {})[parameter.name] = list(parameter.values)
        return kinds


def as_setting(value: object) -> object:
    """An option as a configuration value; a quoted list (``'[64,32]'``), as RecBole needs it, becomes a list."""
    if isinstance(value, str) and value[:1] in ("[", "(", "{"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return list(value) if isinstance(value, tuple) else value


def read_space(path: str | os.PathLike) -> Space:
    """Read a params file.

    Raises:
        UserError: there is no such file, a line is faulty (the message has its number), or there is no parameter.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"params file '{path}' not found: --params_file is a file with lines 'name type value'"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"params file '{path}' cannot be read as UTF-8 text: {error}") from None
    parameters: dict[str, Parameter] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            parameter = _parameter(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if parameter.name in parameters:
            raise UserError(f"{path}, line {number}: {parameter.name} is listed twice: keep one of its lines")
        parameters[parameter.name] = parameter
    if not parameters:
        raise UserError(
            f"params file '{path}' has no parameter: add lines such as 'learning_rate choice [0.001, 0.01]'"
        )
    return Space(tuple(parameters.values()))


def _parameter(line: str) -> Parameter:
    """The parameter of a line.

    Raises:
        ValueError: the line is faulty; the message says how.
    """
    words = line.split(maxsplit=2)
    if len(words) < 3:
        raise ValueError(f"'{line.strip()[:60]}' is not a parameter: write 'name type value'")
    name, kind, text = words
    if kind not in KINDS:
        raise ValueError(f"type '{kind[:40]}' of {name} is unknown: use one of {', '.join(KINDS)}")
    return Parameter(name, kind, _options(name, text) if KINDS[kind] is None else _numbers(name, kind, text))


def _options(name: str, text: str) -> tuple:
    try:
        options = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        options = None
    if not isinstance(options, (list, tuple)) or not all(_is_plain(option) for option in options):
        raise ValueError(
            f"the options of {name} are not a list of numbers, quoted words, True, False, None, lists or dictionaries: "
            f"write e.g. {name} choice [0.1, 0.2]"
        )
    if not options:
        raise ValueError(f"{name} has no options: list at least one")
    repeated = [option for k, option in enumerate(options) if _typed([option])[0] in _typed(options[:k])]
    if repeated:
        raise ValueError(f"option {repeated[0]!r} of {name} is listed twice: keep one of them")
    return tuple(options)


def _typed(options: list | tuple) -> list[tuple[type, object]]:
    # True == 1 == 1.0, and they are different settings
    return [(type(option), option) for option in options]


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(_is_plain(entry) for entry in value.values())
    return isinstance(value, _PLAIN) and not (isinstance(value, float) and not math.isfinite(value))


def _numbers(name: str, kind: str, text: str) -> tuple[float, ...]:
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = tuple(int(word) if word.lstrip("+-").isdigit() else float(word) for word in words)
    except ValueError:
        numbers = ()
    if len(numbers) != KINDS[kind] or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} {kind} takes {KINDS[kind]} numbers separated by commas, got '{text.strip()[:60]}'")
    low, high = numbers[:2]
    if low >= high:
        raise ValueError(f"the lower bound {low} of {name} is not below the upper bound {high}")
    if kind == "quniform" and not 0 < numbers[2] <= high - low:
        raise ValueError(f"the step {numbers[2]} of {name} must be positive and at most {high - low}")
    if kind == "loguniform" and high > 700:
        raise ValueError(f"{name} loguniform takes the logarithms of the bounds: exp({high}) is too large")
    return numbers


def install() -> None:
    """Let RecBole's ``HyperTuning`` read params files by :func:`read_space`; a second call changes nothing.

    RecBole passes the options of a ``choice`` to ``eval``, which runs whatever is written there, and silently skips
    lines that it does not understand.

    No upstream issue known.
    """
    tuning = importlib.import_module("recbole.trainer.hyper_tuning").HyperTuning
    replace(tuning, "_build_space_from_file", staticmethod(_build_space_from_file))


def _build_space_from_file(file: str | os.PathLike) -> dict:
    from recbole.trainer import HyperTuning

    return HyperTuning._build_space_from_dict(read_space(file).as_dict())
