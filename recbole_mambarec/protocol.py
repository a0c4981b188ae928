"""Evaluation protocol where RecBole offers no key for it."""

from __future__ import annotations

import functools

import numpy as np
from recbole.sampler import Sampler


def install() -> None:
    """Make the key ``mask_valid_in_test`` work for every model; a second call changes nothing."""
    if getattr(Sampler, "_recbole_mambarec", False):
        return
    Sampler._recbole_mambarec = True
    original = Sampler.get_used_ids

    @functools.wraps(original)
    def get_used_ids(self) -> dict[str, np.ndarray]:
        return _without_validation(self, original(self))

    Sampler.get_used_ids = get_used_ids


def _without_validation(sampler: Sampler, used: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Let the test phase rank validation items too where ``mask_valid_in_test`` is False.

    RecBole counts the items of training, validation and test as used in the test phase and removes those that are not
    test items from the ranking. MMRec, with which the published tables were made, removes training items only, which
    lowers every score a little. Training and validation are the same in both.
    """
    config = sampler.datasets[0].config
    if config["mask_valid_in_test"] is not False or sampler.phases != ["train", "valid", "test"]:
        return used
    test = sampler.datasets[sampler.phases.index("test")].inter_feat
    items = np.array([set(known) for known in used["train"]])
    for user, item in zip(test[sampler.uid_field].numpy(), test[sampler.iid_field].numpy()):
        items[user].add(item)
    return {**used, "test": items}
