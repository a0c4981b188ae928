"""scipy 1.13 and newer."""

from __future__ import annotations

from collections.abc import Mapping

import scipy.sparse

from recbole_mambarec.compat.patching import record


def dok_matrix_update() -> None:
    """Restore ``dok_matrix._update(dict)``, which scipy 1.13 removed.

    GCMC, LightGCN, NCL, NGCF, SpectralCF, KGIN and MCCLK fill their adjacency matrix with it: AttributeError.

    https://github.com/RUCAIBox/RecBole/issues/2034
    """
    if not hasattr(scipy.sparse.dok_matrix, "_update"):
        record(scipy.sparse, "dok_matrix", "_update")  # the module that defines the class varies with the version
        scipy.sparse.dok_matrix._update = _update


def _update(self: scipy.sparse.dok_matrix, entries: Mapping) -> None:
    # unchecked, as it was: the public update() is slow, or refused (1.13)
    self._dict.update(entries)
