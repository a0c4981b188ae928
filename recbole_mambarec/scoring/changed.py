"""Keys that can change after the training: a checkpoint is scored with other values of them.

None of them changes what is trained, only how items and users without training interactions are scored, and which
items are ranked. (The epoch was chosen with the values of the training, though.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import yaml
from recbole.config import Config

from recbole_mambarec import registry
from recbole_mambarec.checkpoint import plain
from recbole_mambarec.config_checks import combination_fault, value_fault
from recbole_mambarec.data import new_items
from recbole_mambarec.errors import UserError
from recbole_mambarec.value_checks import list_of_names

#: how items and users without training interactions are scored
SCORING_KEYS = ("cold_items", "cold_scale", "cold_users", "user_features", "user_neighbours")
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
    for key in texts:
        if key not in allowed:
            raise UserError(
                f"--{key} is not understood: besides the options of this command (--help), a trained model can only be "
                f"given other values of {', '.join(allowed)}"
            )
    return {key: text if key == "user_features" else _value(text) for key, text in texts.items()}


def _value(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


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
    for key, value in values.items():
        if key not in CHANGEABLE:
            raise UserError(f"{key} cannot be changed after the training: choose from {', '.join(CHANGEABLE)}")
        fault = value_fault(key, value, final.get(key))
        if fault:
            raise UserError(fault)
        if key in SCORING_KEYS and model not in registry.names():
            raise UserError(f"{key} has no effect on {model}, which is a model of RecBole's own: leave it out")
    given = dict(values)
    if "user_features" in given:
        given["user_features"] = list_of_names("user_features", given["user_features"])
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
