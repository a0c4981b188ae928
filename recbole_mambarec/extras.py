"""Optional packages: imported where they are used, with one clear sentence when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from recbole_mambarec.errors import UserError


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, which comes with the extra ``[extra]`` of this package.

    Raises:
        UserError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f'this needs the package {module.partition(".")[0]} ({error}): pip install "recbole_mambarec[{extra}]"'
        ) from None
