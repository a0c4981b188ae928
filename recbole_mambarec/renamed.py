"""Configuration keys of our models that had another name in earlier versions.

The old names are still understood wherever a key can be given; each use is answered by one warning that names the new
one. Records and checkpoints of earlier versions are read under today's names. The key of a run
(:func:`recbole_mambarec.run_keys.run_key`) is still computed from the old names, so that a finished run stays
the same run.

This module needs the standard library only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from logging import getLogger
from typing import Any, NamedTuple

from recbole_mambarec_common.errors import UserError


class Renaming(NamedTuple):
    """A key that a model reads under another name than it once did.

    Attributes:
        old, new: the two names.
        values: pairs of an old value and the new one that means the same; empty where values have stayed as they were.
    """

    old: str
    new: str
    values: tuple[tuple[object, object], ...] = ()

    def to_new(self, value: object) -> object:
        """Today's value for an old one.

        Raises:
            KeyError: it never was a value of this key.
        """
        return _look_up(value, self.values)

    def to_old(self, value: object) -> object:
        """The old value for one of today.

        Raises:
            KeyError: it had no counterpart.
        """
        return _look_up(value, [(new, old) for old, new in self.values])


def _look_up(value: object, pairs: Iterable[tuple[object, object]]) -> object:
    pairs = list(pairs)
    if not pairs:
        return value
    for known, meant in pairs:
        if type(known) is type(value) and known == value:
            return meant
    raise KeyError(value)


#: model -> its renamed keys. No name is an old one and a new one of the same model.
RENAMED: dict[str, tuple[Renaming, ...]] = {
    # hops over the item graphs
    **dict.fromkeys(("MambaRec", "MGCN", "GUME", "SMORE"), (Renaming("n_layers", "n_mm_layers"),)),
    # layers over the user-item graph
    **dict.fromkeys(("BM3", "SLMRec"), (Renaming("n_layers", "n_ui_layers"),)),
    "GRCN": (
        Renaming("n_layers", "n_routing_rounds"),
        Renaming("routing", "variant", (("reference", "released"), ("paper", "paper"))),
    ),
    "LGMRec": (
        Renaming("n_mm_layers", "n_feature_layers"),
        Renaming("n_hyper_layer", "n_hyper_layers"),
        Renaming("noise_in_evaluation", "variant", ((True, "released"), (False, "paper"))),
    ),
    "MMGCN": (Renaming("train_id", "variant", ((False, "released"), (True, "paper"))),),
    "COHESION": (Renaming("train_ids", "variant", ((False, "released"), (True, "paper"))),),
    # the only model whose number of neighbours does not count the item itself
    "CRANE": (Renaming("knn_k", "n_neighbors"),),
}


def old_names(model: str) -> set[str]:
    """Names under which a model's keys were known in earlier versions."""
    return {renaming.old for renaming in RENAMED.get(model, ())}


def accept(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a user gave, under today's names and in the same order; a warning names each new name, once per process.

    Raises:
        UserError: a key is given under both names, or an old one has a value that it never had.
    """
    by_old_name = {renaming.old: renaming for renaming in RENAMED.get(model, ())}
    accepted = {}
    for key, value in given.items():
        renaming = by_old_name.get(key)
        if renaming is None:
            accepted[key] = value
            continue
        if renaming.new in given:
            raise UserError(
                f"{renaming.new} of {model} is given twice, also under its old name {renaming.old}: "
                f"leave {renaming.old} out"
            )
        try:
            accepted[renaming.new] = renaming.to_new(value)
        except KeyError:
            allowed = ", ".join(str(old) for old, _ in renaming.values)
            raise UserError(
                f"{key} must be one of {allowed}, got {value!r}; it is an old name of {model}'s key {renaming.new}, "
                f"which takes {' or '.join(str(new) for _, new in renaming.values)}"
            ) from None
        _warn(model, key, value, renaming.new, accepted[renaming.new])
    return accepted


@functools.cache
def warn_once(sentence: str) -> None:
    """Log a warning unless this process has logged the same one before."""
    getLogger().warning(sentence)


def _warn(model: str, old: str, value: object, new: str, accepted: object) -> None:
    before, after = (old, new) if value is accepted else (f"{old}={value}", f"{new}={accepted}")
    warn_once(f"{before} of {model} is now called {after}: the old name still works, please use the new one")


def under_new_names(model: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration from a record or a checkpoint of any version under today's names; no warning is given."""
    return _renamed(config, {each.old: (each.new, each.to_new) for each in RENAMED.get(model, ())})


def under_old_names(model: str, config: Mapping[str, object]) -> dict[str, object]:
    """The same configuration under the names of earlier versions, from which keys of runs are computed."""
    return _renamed(config, {each.new: (each.old, each.to_old) for each in RENAMED.get(model, ())})


def _renamed(
    config: Mapping[str, object], names: Mapping[str, tuple[str, Callable[[object], object]]]
) -> dict[str, object]:
    """``config``, in its order, with keys replaced according to ``names``: key -> other name, translation of values."""
    renamed = {}
    for key, value in config.items():
        name, translate = names.get(key, (key, None))
        try:
            renamed[name] = translate(value) if translate else value
        except KeyError:  # a value without a counterpart: the entry stays as it is
            renamed[key] = value
    return renamed
