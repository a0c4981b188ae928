"""Evaluation protocol where RecBole offers no key for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from recbole.sampler import Sampler

from recbole_mambarec.compat import wrap


def install() -> None:
    """Make the key ``mask_valid_in_test`` work for every model; a second call changes nothing."""
    wrap(Sampler, "get_used_ids", _without_validation)


def _without_validation(original: Callable, sampler: Sampler) -> dict[str, np.ndarray]:
    """Let the test phase rank validation items too where ``mask_valid_in_test`` is False.

    RecBole counts the items of training, validation and test as used in the test phase and removes those that are not
    test items from the ranking. MMRec, with which the published tables were made, removes training items only, which
    lowers every score a little. Training and validation are the same in both.
    """
    used = original(sampler)
    config = sampler.datasets[0].config
    if config["mask_valid_in_test"] is not False or sampler.phases != ["train", "valid", "test"]:
        return used
    test = sampler.datasets[sampler.phases.index("test")].inter_feat
    items = np.array([set(known) for known in used["train"]])
    for user, item in zip(test[sampler.uid_field].numpy(), test[sampler.iid_field].numpy()):
        items[user].add(item)
    return {**used, "test": items}
