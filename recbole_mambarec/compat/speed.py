"""Patches without which everything works, and takes longer."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping

import numpy as np
import torch

from recbole_mambarec.compat.patching import wrap


def anomaly_detection() -> None:
    """Switch autograd's anomaly detection off again, which RecBole switches on for the whole process.

    ``recbole.model.sequential_recommender.sine`` calls ``torch.autograd.set_detect_anomaly(True)`` when it is imported,
    which happens when the package of sequential models is. From then on, every backward pass checks every gradient for
    NaN, which took 38 % of the time of a MambaRec step (RecBole checks the loss itself). To use the detection, switch
    it on after importing this package.

    No upstream issue known.
    """
    importlib.import_module("recbole.model.sequential_recommender.sine")
    _switch_anomaly_detection_off()


@functools.cache  # once: a user may have switched it on since
def _switch_anomaly_detection_off() -> None:
    torch.autograd.set_detect_anomaly(False)


def popularity_metrics() -> None:
    """Look items up in arrays for ``AveragePopularity`` and ``TailPercentage``; the values are the same.

    RecBole loops over users x recommendations in Python, and searches a list inside the loop, after every epoch.

    No upstream issue known.
    """
    metrics = importlib.import_module("recbole.evaluator.metrics")
    wrap(metrics.AveragePopularity, "get_pop", _popularity)
    wrap(metrics.TailPercentage, "get_tail", _is_in_tail)


def _popularity(original: Callable, self, item_matrix: np.ndarray, item_count: Mapping) -> np.ndarray:
    counts = np.zeros(max(item_matrix.max(initial=0), *item_count, 0) + 1, dtype=item_matrix.dtype)
    counts[list(item_count)] = list(item_count.values())
    return counts[item_matrix]


def _is_in_tail(original: Callable, self, item_matrix: np.ndarray, count_items: Mapping) -> np.ndarray:
    # the original decides what the tail is; it is called once, with each distinct item
    distinct, places = np.unique(item_matrix, return_inverse=True)
    return original(self, distinct[:, None], count_items)[places.reshape(item_matrix.shape), 0]
