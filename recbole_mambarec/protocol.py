"""The part of the evaluation protocol for which RecBole has no key: which items are ranked at test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from recbole.sampler import Sampler

from recbole_mambarec.compat.patching import wrap


def install() -> None:
    """Make the key ``mask_valid_in_test`` work for every model; a second call changes nothing."""
    wrap(Sampler, "get_used_ids", _keep_validation_items)


def _keep_validation_items(original: Callable, sampler: Sampler) -> dict[str, np.ndarray]:
    """Keep a user's validation items in the ranking at test where ``mask_valid_in_test`` is False.

    At test, RecBole counts the items of training, validation and test as used and removes those that are not test items
    from the ranking. MMRec, with which the published tables were made, removes training items only, which lowers every
    score a little. Training and validation are the same in both.
    """
    used = original(sampler)
    config = sampler.datasets[0].config
    if config["mask_valid_in_test"] is not False or sampler.phases != ["train", "valid", "test"]:
        return used
    test = sampler.datasets[sampler.phases.index("test")].inter_feat
    items = np.array([set(train_items) for train_items in used["train"]])
    for user, item in zip(test[sampler.uid_field].numpy(), test[sampler.iid_field].numpy()):
        items[user].add(item)
    return {**used, "test": items}
