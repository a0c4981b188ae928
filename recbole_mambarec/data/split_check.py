"""Are test interactions left out of training, and do the filters of the configuration have an effect?

RecBole splits rows, so if a file repeats an interaction, one row may be used for training and the other for testing.
And it leaves a split that comes in files as it is, whatever filters the configuration has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.errors import UserError

# share of pairs in two splits beyond which the split is considered wrong (as in dataset_prep)
_REPEATED_SHARE = 0.01
_PARTS = ("training", "validation", "test")
_FILTERS = (
    *("rm_dup_inter", "val_interval", "user_inter_num_interval", "item_inter_num_interval"),
    *("entity_kg_num_interval", "relation_kg_num_interval"),
)
# intervals of counts that exclude nothing, without blanks
_EVERYTHING = {f"{low},inf{end}" for low in ("[0", "(0", "[1", "[0.0", "(0.0", "[1.0") for end in ")]"}


def install() -> None:
    """Put the checks into RecBole's ``Dataset``; a second call changes nothing."""
    wrap(Dataset, "_data_processing", _check_files)
    wrap(Dataset, "build", _check_built)


def check_parts(dataset: Dataset, parts: Sequence[tuple[np.ndarray, np.ndarray]], advice: str) -> None:
    """Refuse a split that tests on what it trains on; a few such pairs are only warned about.

    Under ``repeatable: True`` (RecBole's setting for sequential models) nothing is checked, because an item may follow
    that the user has had before. In the mode ``labeled``, where a pair may have several labels, it only warns.

    Args:
        dataset: has the configuration.
        parts: (users, items) of training, validation and test; arrays of whole numbers from 0.
        advice: what to do about it.

    Raises:
        UserError: more than 1 % of the interactions are in more than one split.
    """
    if dataset.config["repeatable"]:
        return
    n_items = 1 + max((int(items.max()) for _, items in parts if len(items)), default=0)
    distinct = [_distinct(users.astype(np.int64) * n_items + items) for users, items in parts]
    total = sum(len(users) for users, _ in parts)
    repeated, places = 0, []
    for later in range(1, len(parts)):
        seen = np.zeros(len(distinct[later]), dtype=bool)
        for earlier in range(later):
            common = _is_in(distinct[later], distinct[earlier])
            seen |= common
            if common.any():
                places.append(f"{int(common.sum())} of {len(common)} in {_PARTS[later]} are in {_PARTS[earlier]}")
        repeated += int(seen.sum())
    if not repeated:
        return
    message = f"{repeated} of {total} interactions of '{dataset.dataset_name}' are in more than one split"
    message += f" (pairs of user and item: {', '.join(places)})"
    modes = dataset.config["eval_args"]["mode"]
    labeled = set(modes.values() if isinstance(modes, dict) else [modes]) == {"labeled"}
    if repeated > _REPEATED_SHARE * total and not labeled:
        raise UserError(f"{message}: training and test must not share interactions, {advice}")
    dataset.logger.warning(f"{message}: {advice}")


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct ``values``, sorted; much faster than np.unique, which hashes them first."""
    values = np.sort(values)
    return values[np.diff(values, prepend=-1) > 0]


def _is_in(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mask of the ``values`` that occur in ``among``; both are sorted (np.isin would sort them again)."""
    places = np.searchsorted(among, values)
    inside = places < len(among)
    inside[inside] = among[places[inside]] == values[inside]
    return inside


def _check_files(original: Callable, self) -> None:
    """Check a split that comes in files before it is processed."""
    if self.benchmark_filename_list is not None:
        _refuse_filters(self)
        if self.uid_field in self.inter_feat and self.iid_field in self.inter_feat:
            ids = [pd.factorize(self.inter_feat[field])[0] + 1 for field in (self.uid_field, self.iid_field)]
            ends = np.cumsum(self.file_size_list)[:-1]
            parts = list(zip(*(np.split(column, ends) for column in ids)))
            if len(parts) == len(_PARTS):
                check_parts(self, parts, "split the data again")
    original(self)


def _check_built(original: Callable, self) -> list[Dataset]:
    """Check a split made by RecBole."""
    datasets = original(self)
    fields = self.uid_field, self.iid_field
    whole = self.benchmark_filename_list is None and len(datasets) == len(_PARTS)
    if whole and all(field in part.inter_feat for part in datasets for field in fields):
        parts = [tuple(part.inter_feat[field].numpy() for field in fields) for part in datasets]
        check_parts(
            self,
            parts,
            "keep one interaction of each pair with rm_dup_inter: first (or last), or set repeatable: True if users "
            "may be recommended what they have had",
        )
    return datasets


def _refuse_filters(self) -> None:
    """Refuse filters that the user has set and that RecBole would not apply to a split that comes in files.

    Applying them would change a split that others report numbers on, and a k-core could be that of training or of all
    interactions. Values that filter nothing are accepted, and so are RecBole's own defaults.
    """
    config = self.config
    given, defaults = config.external_config_dict, config.internal_config_dict
    for key in _FILTERS:
        value = config[key]
        if key not in given or value in (None, "", {}) or value == defaults.get(key):
            continue
        if str(value).replace(" ", "").lower() in _EVERYTHING:
            continue
        raise UserError(
            f"{key}: {value} has no effect on '{self.dataset_name}', whose split comes in files "
            f"({', '.join(map(str, self.benchmark_filename_list))}): leave it out, or filter the data before "
            "splitting, e.g. with python -m dataset_prep"
        )
    if config["filter_inter_by_user_or_item"] is True:
        for feat, field, file in ((self.user_feat, self.uid_field, "user"), (self.item_feat, self.iid_field, "item")):
            if feat is None or field not in self.inter_feat:
                continue
            left = int((~self.inter_feat[field].isin(feat[field])).sum())
            if left:
                self.logger.warning(
                    f"{left} interactions of '{self.dataset_name}' have a {file} that {self.dataset_name}.{file} "
                    "does not list: they are kept, as filter_inter_by_user_or_item has no effect on a split in files"
                )
