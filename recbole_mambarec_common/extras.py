"""Optional packages, imported where they are used, with one clear sentence if they are missing or broken."""

from __future__ import annotations

import importlib
from types import ModuleType

from recbole_mambarec_command.requirements import (
    DISTRIBUTION,
    broken_package,
    broken_sentence,
    distribution_of,
    is_installed,
    reason,
)
from recbole_mambarec_common.errors import UserError


def need(module: str, extra: str, otherwise: str = "") -> ModuleType:
    """Import ``module``, which comes with the extra ``[extra]`` of this package.

    Args:
        otherwise: an alternative, as the end of the sentence.

    Raises:
        UserError: it is not installed, or its import fails; the message says how to repair that.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or is_installed(missing):
            # a broken installation may raise anything, such as OSError for a missing system library
            top = module.partition(".")[0]
            what = broken_sentence(broken_package(error) or top, error)
        else:
            what = f'{distribution_of(module)} ({reason(error)}): pip install "{DISTRIBUTION}[{extra}]"'
        raise UserError(f"this needs the package {what}{otherwise and f', {otherwise}'}") from error
