"""Python 3.12 and newer."""

from __future__ import annotations

import warnings

from recbole_mambarec.compat.patching import record


def docstring_escapes() -> None:
    r"""Suppress warnings about the docstrings of RecBole.

    Some contain backslashes that are not valid escapes, such as ``\s``. Python 3.12 and newer warn about them whenever
    they compile the module: at the first import after an installation by uv, and at every import where no bytecode can
    be written. Older versions do so where deprecation warnings are shown.
    """
    record(warnings, "filters")
    # the compiler knows the file, not the module
    for category in (SyntaxWarning, DeprecationWarning):
        warnings.filterwarnings(
            "ignore", "invalid escape sequence|.* is an invalid escape", category, r"(.*[\\/])?recbole[\\/.]"
        )
