"""pandas 3."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

from recbole_mambarec.compat.patching import overlay, replace, wrap


def copy_on_write() -> None:
    """Fill in missing features under copy-on-write, the default since pandas 3.0.

    ``Dataset`` fills them by ``frame[column].fillna(value, inplace=True)``, which now changes a temporary copy: float
    features keep their NaN (and lead to NaN scores) without an error, and a blank ``token_seq`` or ``float_seq`` ends
    in "'float' object has no attribute 'split'". Besides, the tensors of a dataset share memory with the arrays of a
    frame, which are read-only now because other frames may share them, too.

    No upstream issue known; see https://pandas.pydata.org/docs/user_guide/copy_on_write.html
    """
    module = importlib.import_module("recbole.data.dataset.dataset")
    overlay(module, "pd", read_csv=_read_csv_with_blank_sequences)
    wrap(module.Dataset, "_load_feat", _without_chained_assignment_warnings)
    wrap(module.Dataset, "_fill_nan", _fill_nan)
    wrap(module.Dataset, "_dataframe_to_interaction", _dataframe_to_interaction)


def chained_fillna_is_lost() -> bool:
    """Whether the installed pandas fills a temporary copy in ``frame[column].fillna(value, inplace=True)``."""
    frame = pd.DataFrame({"x": [np.nan]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame["x"].fillna(0.0, inplace=True)
    return bool(frame["x"].isna().any())


def _read_csv_with_blank_sequences(*args, **kwargs) -> pd.DataFrame:
    """``pandas.read_csv`` of an atomic file; a blank sequence is an empty string."""
    frame = pd.read_csv(*args, **kwargs)
    if chained_fillna_is_lost():
        sequences = [name for name in frame if str(name).endswith((":token_seq", ":float_seq"))]
        frame[sequences] = frame[sequences].fillna("")
    return frame


def _without_chained_assignment_warnings(original: Callable, *args, **kwargs):
    # pandas warns about the very lines whose effect is restored here
    with warnings.catch_warnings():
        for category in ("ChainedAssignmentError", "SettingWithCopyWarning"):
            if hasattr(pd.errors, category):
                warnings.simplefilter("ignore", getattr(pd.errors, category))
        # pandas 2.2 and 2.3 announce what pandas 3 does
        warnings.filterwarnings("ignore", message="A value is trying to be set on a copy", category=FutureWarning)
        return original(*args, **kwargs)


def _fill_nan(original: Callable, self) -> None:
    """Fill tokens with 0 (the padding) and floats with their mean before RecBole tries to."""
    from recbole.utils import FeatureType

    if chained_fillna_is_lost():
        for name in self.feat_name_list:
            feat = getattr(self, name)
            types = {field: self.field2type[field] for field in feat}
            fills = {field: 0 for field in feat if types[field] == FeatureType.TOKEN}
            fills |= {field: feat[field].mean() for field in feat if types[field] == FeatureType.FLOAT}
            setattr(self, name, feat.fillna(fills))
    _without_chained_assignment_warnings(original, self)


def _dataframe_to_interaction(original: Callable, self, data: pd.DataFrame):
    """Give every tensor its own memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        interaction = original(self, data)
    if chained_fillna_is_lost():
        for name, values in interaction.interaction.items():
            interaction.interaction[name] = values.clone()
    return interaction


def series_agg() -> None:
    """Measure sequences one by one: since pandas 3.0, ``series.agg(len)`` is the length of the series.

    It used to be the length of each element, by which RecBole splits flattened sequences. Every dataset with a
    ``token_seq`` (and normalising or discretising a ``float_seq``) ends in "Length of values ... does not match length
    of index".

    No upstream issue known; see https://github.com/pandas-dev/pandas/issues/53325
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pandas 2 announces what pandas 3 does
        element_by_element = isinstance(pd.Series([[0]]).agg(len), pd.Series)
    if element_by_element:
        return
    for name in ("dataset", "kg_dataset", "sequential_dataset"):
        replace(importlib.import_module(f"recbole.data.dataset.{name}"), "len", _len)


def _len(values):
    """``len`` in modules that take the length of a series of sequences only in ``series.agg(len)``."""
    sequences = isinstance(values, pd.Series) and values.dtype == object
    return values.map(len) if sequences else len(values)
