"""What the log of a run says about its configuration when training starts: its protocol, and the preset in use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from logging import getLogger

from recbole.config import Config

from recbole_mambarec import protocol
from recbole_mambarec.compat.patching import wrap


def install() -> None:
    """Let RecBole's trainers log :func:`lines` first; a second call changes nothing."""
    trainers = importlib.import_module("recbole.trainer.trainer")
    wrap(trainers.Trainer, "fit", _fit)
    wrap(trainers.NCLTrainer, "fit", _fit)  # a loop of its own


def lines(config: Config) -> list[str]:
    """The lines; none for a model of RecBole on a dataset of RecBole that is configured as without this package."""
    facts = vars(config)
    if not facts.get("checked_by_recbole_mambarec") and config["protocol"] != protocol.MULTIMODAL:
        return []
    preset = facts.get("preset_in_use")
    said = [protocol.summary(config)]
    return said if preset is None else [*said, preset.summary(config.external_config_dict)]


def _fit(original: Callable, trainer, *args, **kwargs):
    for line in lines(trainer.config):
        getLogger().info(line)
    return original(trainer, *args, **kwargs)
