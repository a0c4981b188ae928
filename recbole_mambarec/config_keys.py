"""Which configuration keys are read, and the answer to one that nothing reads.

What the value of a key must be is another question: :mod:`~recbole_mambarec.config_checks`.
"""

from __future__ import annotations

import difflib
from logging import getLogger

from recbole.config import Config

from recbole_mambarec import presets, registry, renamed
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.options import SCORING_KEYS

# keys that only the trainer and the models of this package read: RecBole's would silently ignore them
OWN_TRAINER_KEYS = (
    *("lr_decay_rate", "lr_decay_epochs", "lr_boost", "lr_boost_epochs", "lr_boost_steps"),
    *("resume_from", "checkpoint_interval"),
    *("impute_missing", "impute_neighbours", "modality_dropout"),
    *SCORING_KEYS,
)
# keys of the command line and of RecBole's own code that no YAML file lists
_OTHER_KEYS = (
    *("model", "dataset", "config_files", "nproc", "ip", "port", "world_size", "group_offset", "offset", "local_rank"),
    *("wandb_project", "config_file", "neg_sampling", "training_neg_sample_num", "loss_type", "entity_kg_num_interval"),
    *("valid_metric_bigger", "params_file", "output_file", "tool", "max_evals", "early_stop", "algo", "display_file"),
)


def known_keys(config: Config) -> set[str]:
    """Configuration keys that RecBole, the model, the dataset or this package read."""
    known = {*config.internal_config_dict, *_OTHER_KEYS}
    known.update(key for keys in config.parameters.values() for key in keys)
    return known


def keys_read(config: Config) -> set[str]:
    """:func:`known_keys` and their old names, without the keys of this package's trainer where it does not train."""
    model = config["model"]
    known = known_keys(config) | renamed.old_names(model)
    if not presets.presets_of(model):
        known.discard("preset")
    return known if model in registry.names() else known - set(OWN_TRAINER_KEYS)


def check_keys(config: Config) -> None:
    """Refuse a key that looks misspelt; warn about keys that nothing reads."""
    known = known_keys(config)
    for key in config.external_config_dict:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near and config.external_config_dict.get("strict_keys", True):
            raise UserError(
                f"configuration key '{key}' is unknown: did you mean '{near[0]}'? "
                "(strict_keys=False turns this into a warning)"
            )
        getLogger().warning(f"nothing reads the configuration key '{key}': check its spelling")
