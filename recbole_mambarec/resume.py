"""A training continues only with its own configuration and data, except for keys such as the number of epochs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from logging import getLogger

import numpy as np
from recbole.config import Config

from recbole_mambarec.checkpoint import plain
from recbole_mambarec.compat.checkpoints import load_checkpoint
from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.data.cache import content_key
from recbole_mambarec.errors import UserError
from recbole_mambarec.renamed import under_new_names
from recbole_mambarec.run_keys import NO_EFFECT, neutral_values, normal

# keys that decide how long a training lasts and what is reported: they leave every single epoch as it was
_MAY_DIFFER = (NO_EFFECT - {"model", "dataset", "seed", "world_size"}) | {
    *("epochs", "stopping_step", "stopping_min_steps", "metrics", "topk", "beyond_accuracy"),
    *("reproducibility", "memory_limit"),
}
# keys of the optimisation: they may be changed half-way, with a warning that the result is not that of one run
_DIFFER_WITH_WARNING = (
    *("learning_rate", "weight_decay", "lr_decay_rate", "lr_decay_epochs"),
    *("lr_boost", "lr_boost_epochs", "lr_boost_steps"),
    *("clip_grad_norm", "eval_step", "enable_amp", "enable_scaler", "worker", "world_size"),
)
# messages name these before other keys, whose values may follow from them
_NAMED_FIRST = ("model", "dataset", "seed", "valid_metric", "eval_args", "train_neg_sample_args")
_DATA = "resumable_data"


def install() -> None:
    """Let RecBole's trainers refuse to continue another training; a second call changes nothing.

    RecBole's ``resume_checkpoint`` takes over the best score and the patience of a run with any configuration (it warns
    only about another model, and LightGCN loads the parameters of BPR), and never checks the data. A score of one
    metric may then be the bar for another, or parameters of one split may be chosen on test items of another split.

    No upstream issue known.
    """
    trainers = importlib.import_module("recbole.trainer.trainer")
    wrap(trainers.Trainer, "resume_checkpoint", _resume_checkpoint)
    wrap(trainers.Trainer, "fit", _fit_with_the_same_data)
    wrap(trainers.NCLTrainer, "fit", _fit_with_the_same_data)  # it has a training loop of its own


def check_configuration(path: str, before: dict, config: Config) -> list[str]:
    """Compare the configuration of a checkpoint with that of the run that continues it.

    The number of epochs, patience, additional metrics, and everything without effect on a result (paths, progress bars,
    the device) may differ. The learning rate and other keys of the optimisation may differ, with a warning. Any other
    difference is refused.

    Args:
        path: the checkpoint, for messages.
        before: its configuration as plain values. Keys that it lacks came with a later version and must have their
            defaults.
        config: of the run.

    Returns:
        The keys of the optimisation that differ.

    Raises:
        UserError: another key differs, so that this would be another run.
    """
    before = under_new_names(config["model"], before)
    now, defaults = plain(config.final_config_dict), plain(config.internal_config_dict)
    changed = []
    for key in sorted(
        {*before, *now} - _MAY_DIFFER, key=lambda key: (_NAMED_FIRST.index(key) if key in _NAMED_FIRST else 99, key)
    ):
        old = before.get(key, defaults.get(key))
        new = now.get(key, neutral_values(config["model"]).get(key))
        if key == "valid_metric":
            old, new = str(old).lower(), str(new).lower()
        if normal(old) != normal(new):
            changed.append((key, old, new))
    refused = [entry for entry in changed if entry[0] not in _DIFFER_WITH_WARNING]
    if refused:
        (key, old, new), *others = refused
        also = f" (other keys that differ: {', '.join(name for name, *_ in others)})" if others else ""
        raise UserError(
            f"{path} was written with {key} {old!r} and cannot be continued with {new!r}{also}: resume with the "
            "configuration it was written with, or start a new training"
        )
    for key, old, new in changed:
        getLogger().warning(
            f"{path} was written with {key} {old!r} and is continued with {new!r}: the result is not that of an "
            "uninterrupted run"
        )
    return [key for key, *_ in changed]


def training_data_key(train_data, valid_data=None) -> str:
    """Fingerprint (hexadecimal) of two loaders' interactions, whatever their order, and of the items' features."""
    arrays = []
    for loader in filter(None, (train_data, valid_data)):
        dataset = loader._dataset
        fields = [dataset.uid_field, dataset.iid_field, dataset.label_field]
        columns = [dataset.inter_feat[field].numpy() for field in fields if field in dataset.inter_feat]
        order = np.lexsort(columns)
        arrays += [column[order] for column in columns]
    features = getattr(train_data._dataset, "item_features", {})
    for name in sorted(features):
        arrays += [features[name].items, features[name].present[1:]]
    return content_key(*arrays)


def data_of(config: Config) -> str | None:
    """The fingerprint of the data of the training with this configuration; None before it has started."""
    return vars(config).get(_DATA)


def _resume_checkpoint(original: Callable, trainer, resume_file) -> None:
    path = str(resume_file)
    config = load_checkpoint(path, map_location="cpu").get("config")
    of_recbole = isinstance(config, Config)
    before = plain(config.final_config_dict) if of_recbole else config
    if not isinstance(before, dict):
        raise UserError(f"{path} has no configuration: resume from a file that a trainer has saved")
    changed = check_configuration(path, before, trainer.config)
    original(trainer, resume_file)
    for key, name in {"learning_rate": "lr", "weight_decay": "weight_decay"}.items():
        if key in changed:
            # the state of the optimizer has the old value
            for group in trainer.optimizer.param_groups:
                group[name] = trainer.config[key]
    trainer.resumed_from = (path, data_of(config) if of_recbole else None)


def _fit_with_the_same_data(original: Callable, trainer, train_data, valid_data=None, *args, **kwargs):
    """RecBole's ``fit``.

    Raises:
        UserError: the training would continue on other interactions or features.
    """
    key = training_data_key(train_data, valid_data)
    path, before = vars(trainer).pop("resumed_from", (None, None))
    if before not in (None, key):
        raise UserError(
            f"{path} was written in a training on other data: the interactions of training or validation, or the "
            "features of the items, have changed since: start a new training"
        )
    # RecBole pickles its configuration, including this attribute, into the checkpoint
    setattr(trainer.config, _DATA, key)
    return original(trainer, train_data, valid_data, *args, **kwargs)
