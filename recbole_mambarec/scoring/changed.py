"""Keys that can change after the training: a checkpoint is scored with other values of them.

None of them changes what is trained, only how items and users without training interactions are scored, and which
items are ranked. (The epoch was chosen with the values of the training, though.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recbole.config import Config

from recbole_mambarec import registry
from recbole_mambarec.checkpoint import plain
from recbole_mambarec.config_checks import combination_fault, value_fault
from recbole_mambarec.data import new_items
from recbole_mambarec.errors import UserError
from recbole_mambarec.value_checks import list_of_names
from recbole_mambarec_common.options import SCORING_KEYS, check_changeable

#: which items are ranked in an evaluation
RANKING_KEYS = ("rank_items",)
#: all of these keys
CHANGEABLE = (*SCORING_KEYS, *RANKING_KEYS)
# on which the dataset and its splits depend
_OF_THE_DATA = frozenset(("cold_users", "user_features", *RANKING_KEYS))


def read_values(texts: Mapping[str, str], allowed: tuple[str, ...] = SCORING_KEYS) -> dict[str, object]:
    """Values of these keys from a command line.

    Raises:
        UserError: another key is named.
    """
    check_changeable(texts, allowed)
    return {key: text if key == "user_features" else _value(text) for key, text in texts.items()}


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_values(values: Mapping[str, object]) -> None:
    """Check what can be checked without a model.

    Raises:
        UserError: a key is not among :data:`CHANGEABLE`, or a value is faulty.
    """
    for key, value in values.items():
        if key not in CHANGEABLE:
            raise UserError(f"{key} cannot be changed after the training: choose from {', '.join(CHANGEABLE)}")
        fault = value_fault(key, value)
        if fault:
            raise UserError(fault)
    if "user_features" in values:
        list_of_names("user_features", values["user_features"])
    of_users = [key for key in ("user_features", "user_neighbours") if key in values]
    if of_users and values.get("cold_users", "features") != "features":
        raise UserError(
            f"{of_users[0]} has no effect with cold_users={values['cold_users']}: only cold_users=features compares "
            "users"
        )


def change(config: Config, values: Mapping[str, object]) -> dict[str, object]:
    """Put values of :data:`CHANGEABLE` keys into the configuration of a trained model.

    Args:
        config: is changed.
        values: only those that differ from the present ones have an effect.

    Returns:
        What differs: key -> the value before.

    Raises:
        UserError: a key is another one, a value is faulty, or it has no effect on the model.
    """
    final, model = config.final_config_dict, str(config["model"])
    check_values(values)
    useless = [key for key in values if key in SCORING_KEYS]
    if useless and model not in registry.names():
        raise UserError(f"{useless[0]} has no effect on {model}, which is a model of RecBole's own: leave it out")
    if values.get("rank_items") == "new" and final.get("new_items") is None:
        raise UserError(
            f"rank_items 'new' ranks the items whose interactions new_items has left out of the training, and {model} "
            "was trained without that key: train it with it, or leave rank_items out"
        )
    given = dict(values)
    if "user_features" in given:
        given["user_features"] = list_of_names("user_features", given["user_features"])
    if given.get("cold_users", final.get("cold_users")) != "features":
        given.setdefault("user_features", None)  # the training's have no effect any more
    different = {key: value for key, value in given.items() if plain(final.get(key)) != plain(value)}
    after = {**final, **different}
    fault = combination_fault(after, given) or new_items.combination_fault(after)
    if fault:
        raise UserError(fault)
    before = {key: final.get(key) for key in different}
    final.update(different)
    return before


def changes_data(keys: Iterable[str]) -> bool:
    """Whether the dataset or its splits depend on one of these keys."""
    return not _OF_THE_DATA.isdisjoint(keys)
