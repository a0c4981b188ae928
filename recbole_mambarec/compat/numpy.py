"""numpy 2: names of scalar types that it removed and RecBole reads."""

from __future__ import annotations

import warnings

import numpy as np

from recbole_mambarec.compat.patching import replace

_ALIASES = {
    "bool8": np.bool_,
    "bytes0": np.bytes_,
    "cfloat": np.complex128,
    "complex_": np.complex128,
    "float_": np.float64,
    "int0": np.intp,
    "object0": np.object_,
    "singlecomplex": np.complex64,
    "str0": np.str_,
    "string_": np.bytes_,
    "uint0": np.uintp,
    "unicode_": np.str_,
    "void0": np.void,
}


def scalar_aliases() -> None:
    """Restore the aliases of scalar types that numpy 2.0 removed, where they are missing.

    Every ``Config`` reads ``np.float_``, ``np.complex_`` and ``np.unicode_``: AttributeError.

    https://github.com/RUCAIBox/RecBole/issues/2215, https://github.com/RUCAIBox/RecBole/pull/2187
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy 1.24 has some of them, with a warning
        for name, scalar_type in _ALIASES.items():
            if not hasattr(np, name):
                replace(np, name, scalar_type)
