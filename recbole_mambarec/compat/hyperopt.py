"""hyperopt 0.2.7 and newer."""

from __future__ import annotations

import importlib

import numpy as np

from recbole_mambarec.compat.patching import Overlay, overlay


def random_generator() -> None:
    """Let ``HyperTuning(algo="exhaustive")`` and its ``display_file`` work.

    The search samples with ``np.random.RandomState``, and hyperopt >= 0.2.7 calls ``integers`` on it, which only the
    newer ``Generator`` has. The plot uses ``np.str``, which numpy 1.24 removed.

    https://github.com/RUCAIBox/RecBole/issues/1868
    """
    hyper_tuning = importlib.import_module("recbole.trainer.hyper_tuning")
    overlay(hyper_tuning, "np", random=Overlay(np.random, RandomState=_RandomState), str=str)


class _RandomState(np.random.RandomState):
    """A ``RandomState``, as hyperopt < 0.2.7 needs it, that has ``Generator``'s name for ``randint``, too."""

    def integers(self, low: int, high: int | None = None, size=None):
        return self.randint(low, high, size)
