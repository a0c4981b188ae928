"""RecBole's metrics of counts, which have not worked since its release."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from recbole_mambarec.compat.patching import wrap


def counts_in_the_collector() -> None:
    """Let the metrics that need counts be computed at all.

    ``Collector.get_data_struct`` moves everything that was collected to the CPU, including the number of items (an int)
    and the interactions per item (a Counter): "'int' object has no attribute 'cpu'" with ItemCoverage, GiniIndex,
    AveragePopularity, ShannonEntropy or TailPercentage among the metrics.

    https://github.com/RUCAIBox/RecBole/issues/2131
    """
    wrap(importlib.import_module("recbole.evaluator.collector").Collector, "get_data_struct", _get_data_struct)


def _get_data_struct(original: Callable, self):
    collected = self.data_struct._data_dict
    counts = {name: collected.pop(name) for name in list(collected) if not torch.is_tensor(collected[name])}
    try:
        struct = original(self)
    finally:
        collected.update(counts)
    struct._data_dict.update(counts)
    return struct
