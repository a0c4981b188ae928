"""Published best settings of a model for a data set, used when a run asks for them or its dataset is recognised.

The presets of a model are one YAML file, data set -> configuration keys and values. They lie above the defaults of the
model and below everything that a user gives.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec import registry
from recbole_mambarec.defaults import properties_folder
from recbole_mambarec.yaml_files import read_yaml_mapping
from recbole_mambarec_common.card import read_card
from recbole_mambarec_common.errors import UserError

#: values of the key ``preset`` that are not names of presets; None counts as ``none``
AUTO, NONE = "auto", "none"
_COUNTS = ("users", "items", "interactions")


@dataclass(frozen=True)
class Preset:
    """The settings of a model for one data set.

    Attributes:
        model, name: whose, and for which data set.
        values: configuration keys -> values.
        asked_for: the user named it; otherwise the dataset was recognised.
    """

    model: str
    name: str
    values: dict
    asked_for: bool

    def summary(self, given: Mapping) -> str:
        """One line for the log of a run: where the preset comes from, and which of its values count.

        Args:
            given: what the user gave.
        """
        by_card = "recognised by the counts on the dataset's card; preset=none declines it"
        source = "as asked for" if self.asked_for else by_card
        used = ", ".join(f"{key}={value}" for key, value in self.values.items() if key not in given)
        kept = ", ".join(f"{key}={given[key]}" for key in self.values if key in given)
        line = f"preset {self.name} of {self.model} ({source}) gives {used or 'nothing'}"
        return line + (f"; your own {kept} stays" if kept else "")


def presets_of(model: str) -> dict[str, dict]:
    """A model's presets by name, empty where it has none.

    Raises:
        UserError: its file is not of that form, or the package that brings the model cannot be imported.
    """
    path = registry.entry(model).presets if model in registry.names() else None
    if path is None:
        return {}
    presets = read_yaml_mapping(path)
    for name, values in presets.items():
        if not isinstance(values, dict) or name in (AUTO, NONE) or not isinstance(name, str):
            raise UserError(f"{path}: '{name}' is not a preset: write the name of a data set and a mapping of keys")
    return presets


def choose(model: str, asked: object, folder: Path | None) -> Preset | None:
    """The preset that a run uses, if any.

    Args:
        asked: the key ``preset``: a name in any case, ``auto``, or ``none`` or None for no preset.
        folder: the dataset's.

    Raises:
        UserError: the model has no preset of that name, or the presets or the card cannot be read.
    """
    if asked is None or asked == NONE:
        return None
    presets = presets_of(model)
    if asked == AUTO:
        name = recognised(folder) if presets and folder is not None else None
        return Preset(model, name, presets[name], asked_for=False) if name in presets else None
    if not presets:
        have = ", ".join(name for name, entry in registry.entries().items() if entry.presets is not None)
        raise UserError(f"{model} has no presets, so leave preset={asked} out: the models with presets are {have}")
    name = str(asked).lower()
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"{model} has no preset '{asked}'{hint}: it has {', '.join(presets)}")
    return Preset(model, name, presets[name], asked_for=True)


def recognised(folder: Path) -> str | None:
    """Which data set of ``properties/preset/datasets.yaml`` the card in a folder describes; None if none.

    Raises:
        UserError: the card cannot be read.
    """
    counts = (read_card(folder) or {}).get("counts")
    if not isinstance(counts, dict):
        return None
    known = read_yaml_mapping(properties_folder() / "preset" / "datasets.yaml")
    found = [name for name, expected in known.items() if all(counts.get(key) == expected[key] for key in _COUNTS)]
    return found[0] if found else None
