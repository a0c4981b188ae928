"""The key ``protocol``, and what RecBole has no key for: which items are ranked at test, and which are negatives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from recbole.config import Config
from recbole.sampler import Sampler

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.renamed import warn_once
from recbole_mambarec_common.errors import UserError

#: values of the key: properties/overall.yaml, or RecBole's own defaults
MULTIMODAL, RECBOLE = "multimodal", "recbole"
_OLD_NAME = "published"


def install() -> None:
    """Make ``mask_valid_in_test`` and ``negatives_skip_held_out`` work; a second call changes nothing."""
    wrap(Sampler, "get_used_ids", _used_ids)


def accept(name: object) -> str | None:
    """The protocol that a user names, under today's name; None where the key is unset.

    Raises:
        UserError: there is no such protocol.
    """
    if name == _OLD_NAME:
        warn_once(
            f"protocol {_OLD_NAME} is now called {MULTIMODAL}, because its mask at test is not that of the published "
            "tables (mask_valid_in_test=False is): the old name still works, please use the new one"
        )
        return MULTIMODAL
    if name not in (None, MULTIMODAL, RECBOLE):
        raise UserError(f"protocol '{name}' is unknown: use {MULTIMODAL} or {RECBOLE}")
    return name


def summary(config: Config) -> str:
    """One line for the log of a run: its protocol, and what is ranked at test."""
    defaults = {MULTIMODAL: "defaults of the published multimodal tables", RECBOLE: "RecBole's own defaults"}
    line = f"protocol {config['protocol']}: {defaults[config['protocol']]}"
    if config["repeatable"]:
        return f"{line}; a user's known items are ranked, too (repeatable=True)"
    if vars(config).get("both_masks"):
        return f"{line}; tested both with and without validation items in the ranking"
    if config["mask_valid_in_test"]:
        return f"{line}; validation items are not ranked at test (mask_valid_in_test=True; published tables: False)"
    return f"{line}; validation items are ranked at test, as in published tables (mask_valid_in_test=False)"


def _used_ids(original: Callable, sampler: Sampler) -> dict[str, np.ndarray]:
    """The items of each user that are not drawn as negatives, or not ranked, in each phase.

    At test, RecBole counts the items of training, validation and test as used and removes those that are not test items
    from the ranking. MMRec, with which the published tables were made, removes training items only, which lowers every
    score a little: so does ``mask_valid_in_test: False``.

    In training, a user's validation and test items can be drawn as negatives, as nobody knows them. The key
    ``negatives_skip_held_out`` of models whose published code peeps at them keeps them out.
    """
    used = original(sampler)
    config = sampler.datasets[0].config
    if sampler.phases != ["train", "valid", "test"]:
        return used
    changed = {}
    if config["mask_valid_in_test"] is False:
        test = sampler.datasets[sampler.phases.index("test")].inter_feat
        items = np.array([set(train_items) for train_items in used["train"]])
        for user, item in zip(test[sampler.uid_field].numpy(), test[sampler.iid_field].numpy()):
            items[user].add(item)
        changed["test"] = items
    if config["negatives_skip_held_out"]:
        changed["train"] = used["test"]
    return used | changed
