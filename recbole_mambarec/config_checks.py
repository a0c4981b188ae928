"""What the value of a configuration key must be, for every key that RecBole and this package read.

The table :data:`CHECKS` has a check per key. :func:`value_fault` checks a single value, :func:`combination_fault` finds
values that exclude each other. Nothing here changes a value, and whatever RecBole can work with passes. The checks also
apply to RecBole's own models, where a wrong value would end in a traceback, often after hours.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

from recbole.evaluator import metric_types
from recbole.evaluator.register import metrics_dict
from recbole.utils import EvaluatorType, ModelType

from recbole_mambarec_command.command_line import typed

# key and value -> a sentence about what is wrong with the value, or None
Check = Callable[[str, object], "str | None"]

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")
SPLITS = {"RS": "three shares", "TS": "three shares", "LS": "valid_and_test, valid_only or test_only"}
MODES = "full, labeled, uniN or popN with the number N of negative items"
# of the key user_neighbours
DEFAULT_USER_NEIGHBOURS = 100
# keys that RecBole reads only as arguments of its function `run`
PROCESSES = ("nproc", "world_size", "ip", "port", "group_offset")
# transformations of sequences, with the key for the share of a sequence that they change
_TRANSFORMS = {
    "mask_itemseq": "mask_ratio",
    "inverse_itemseq": None,
    "crop_itemseq": "eta",
    "reorder_itemseq": "beta",
    "user_defined": None,
}
# sizes and counts are below this
_SIZE_LIMIT = 2**31
_INTERVAL = re.compile(r"\s*[\[(]\s*([^,\s]+)\s*,\s*([^,\s]+)\s*[\])]\s*")
# what RecBole itself writes where there is no sampling; it is found in checkpoints
_NO_SAMPLING = (None, "None", "none")


# ------------------------------------------------------------------------------------------------------------
# kinds of values


def short(value: object) -> str:
    """``value`` as text for a message: one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def kind(description: str, fits: Callable[[Any], bool]) -> Check:
    """A check whose message is "<key> must be ``description``, got ...".

    Args:
        fits: whether a value passes.
    """
    return lambda name, value: None if fits(value) else f"{name} must be {description}, got {short(value)}"


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether ``value`` is a whole number within bounds; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether ``value`` is a finite number within bounds."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -math.inf < value < math.inf
        and least <= value <= most
    )


def whole(least: int, most: float = math.inf) -> Check:
    """A whole number from ``least`` to ``most``; without ``most``, below 2^31."""
    check = kind(_range("a whole number", least, most), lambda value: is_whole(value, least, most))
    if most < math.inf:
        return check

    def fault(name: str, value: object) -> str | None:
        if is_whole(value, _SIZE_LIMIT):
            return f"{name} must be below 2^31, got {short(value)}"
        return check(name, value)

    return fault


def number(least: float = -math.inf, most: float = math.inf) -> Check:
    """A finite number from ``least`` to ``most``."""
    return kind(_range("a number", least, most), lambda value: is_number(value, least, most))


def _range(noun: str, least: float, most: float) -> str:
    return noun + (f" from {least}" if least > -math.inf else "") + (f" to {most}" if most < math.inf else "")


def unset_or(check: Check) -> Check:
    """None, or a value that passes ``check``."""
    return lambda name, value: None if value is None else check(name, value)


def one_of(*allowed: object, fold: bool = False) -> Check:
    """One of ``allowed``; with ``fold``, text is compared in lower case."""

    def fits(value: Any) -> bool:
        compared = value.lower() if fold and isinstance(value, str) else value
        return any(type(value) is type(a) and compared == a for a in allowed)

    return kind(f"one of {', '.join(map(str, allowed))}", fits)


def list_of(check: Check, described: str, count: int | None = None, empty: bool = True, tuples: bool = True) -> Check:
    """A list (or with ``tuples``, also a tuple) of values that pass ``check``.

    Args:
        described: the list in words, for the message.
        count: its length; None: any.
        empty: whether it may be empty.
    """

    def fits(value: object) -> bool:
        return (
            isinstance(value, (list, tuple) if tuples else list)
            and (empty or len(value) > 0)
            and count in (None, len(value))
            and all(check("", entry) is None for entry in value)
        )

    return kind(described, fits)


def mapping_of(check: Check, described: str) -> Check:
    """A mapping of names to values that pass ``check``; ``described`` is the mapping in words."""

    def fault(name: str, value: object) -> str | None:
        if not isinstance(value, Mapping) or not all(is_name(key) for key in value):
            return f"{name} must be {described}, got {short(value)}"
        return _first(check(f"{name}[{key!r}]", entry) for key, entry in value.items())

    return fault


def fields(checks: Mapping[str, Check], needed: Collection[str] = ()) -> Check:
    """A mapping whose keys are among those of ``checks``, each with a value that passes its check."""

    def fault(name: str, value: object) -> str | None:
        if not isinstance(value, Mapping):
            return f"{name} must be a mapping with the keys {', '.join(checks)}, got {short(value)}"
        unknown = [key for key in value if key not in checks]
        if unknown:
            return f"{name} has no key {short(unknown[0])}: its keys are {', '.join(checks)}"
        missing = [key for key in needed if key not in value]
        if missing:
            return f"{name} lacks the key '{missing[0]}', got {short(dict(value))}: add it"
        return _first(checks[key](f"{name}[{key!r}]", entry) for key, entry in value.items())

    return fault


def is_name(value: object) -> bool:
    """Whether ``value`` is text that is not blank."""
    return isinstance(value, str) and value.strip() != "" and "\0" not in value


def _is_interval(value: object) -> bool:
    """RecBole's ``[1,5)``, or several of them separated by semicolons; on a command line, ``[1,5]`` becomes a list."""
    if not isinstance(value, (str, list, tuple)):
        return False
    for part in str(value).split(";"):
        found = _INTERVAL.fullmatch(part)
        try:
            ends = [float(end) for end in found.groups()] if found else []
        except ValueError:
            return False
        if not ends or not ends[0] <= ends[1]:
            return False
    return True


def _first(faults) -> str | None:
    return next((fault for fault in faults if fault), None)


ABOVE_ZERO = kind("a number above 0", lambda value: is_number(value, 0) and value > 0)
_FLAG = kind("True or False", lambda value: isinstance(value, bool) or (is_whole(value) and value in (0, 1)))
_NAME = kind("a name", is_name)
_TEXT = kind("text that is not empty", lambda value: isinstance(value, str) and value != "")
_PATH = kind("a path", lambda value: is_name(value) or isinstance(value, os.PathLike))
_NAMES = list_of(_NAME, "a list of names")
_INTERVALS = kind("an interval such as '[5,inf)', or several separated by semicolons", _is_interval)


# ------------------------------------------------------------------------------------------------------------
# keys whose values have a structure of their own


def _shares(name: str, value: Any) -> str | None:
    fits = isinstance(value, (list, tuple)) and len(value) == 3 and all(is_number(share, 0) for share in value)
    if not fits or not value[0] > 0:
        return (
            f"{name} must be a list of three shares for training, validation and test, such as [0.8, 0.1, 0.1], "
            f"got {short(value)}"
        )
    return None


def _split(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) != 1 or not set(value) <= set(SPLITS):
        forms = "{'RS': [0.8, 0.1, 0.1]} (shares), {'LS': 'valid_and_test'} (leave one out) or {'TS': [0.8, 0.1, 0.1]}"
        return f"{name} must be {forms}, got {short(value)}"
    ((method, how),) = value.items()
    check = one_of("valid_and_test", "valid_only", "test_only") if method == "LS" else _shares
    return check(f"{name}[{method!r}]", how)


def _is_mode(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"full|labeled|(uni|pop)0*[1-9]\d{0,8}", value))


def _mode(name: str, value: object) -> str | None:
    if isinstance(value, Mapping):
        return fields({"valid": kind(MODES, _is_mode), "test": kind(MODES, _is_mode)})(name, value)
    return kind(MODES, _is_mode)(name, value)


def _metrics(name: str, value: object) -> str | None:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given:
        return f"{name} must be a metric or a list of them, such as [Recall, NDCG], got {short(value)}"
    unknown = [metric for metric in given if not isinstance(metric, str) or metric.lower() not in metric_types]
    if unknown:
        names = ", ".join(metrics_dict[metric].__name__ for metric in metric_types)
        return f"{name}: there is no metric {short(unknown[0])}, use one of {names}"
    return None


def _learner(name: str, value: object) -> str | None:
    if isinstance(value, str) and value.lower() == "sparse_adam":
        return f"{name} 'sparse_adam' needs sparse gradients, which no model here has: use adam"
    return None if isinstance(value, str) else f"{name} must be the name of an optimizer, got {short(value)}"


def _recipe(name: str, value: object) -> str | None:
    if not isinstance(value, Mapping) or value.get("kind") not in ("tfidf", "category"):
        return (
            f"{name} must be a recipe such as {{'kind': 'tfidf', 'fields': ['title']}} "
            f"(kinds: tfidf, category), got {short(value)}"
        )
    columns = {"kind": _TEXT, "fields": _NAMES}
    if value["kind"] == "tfidf":
        fault = fields(columns | {"dim": whole(1)}, needed=["fields"])(name, value)
        named = value.get("fields")
    else:
        fault = fields(columns | {"numeric": _NAMES})(name, value)
        named = value.get("fields") or value.get("numeric")
    return fault or (None if named else f"{name} names no column in {short(dict(value))}: add the key 'fields'")


def _kinds(name: str, value: object) -> str | None:
    return None if value is None or is_name(value) else list_of(_NAME, "a list of names", empty=False)(name, value)


_MASK = fields(
    {
        "rate": number(0, 1),
        "kinds": _kinds,
        "seed": unset_or(whole(0, 2**32 - 1)),
        "file": _PATH,
        "sha256": _TEXT,
    }
)


def _beside(name: str, value: Mapping, allowed: Mapping[str, Collection[str]]) -> str | None:
    """What a mapping has beside the one of the keys of ``allowed`` that it has, and that has no effect there."""
    way = next(key for key in allowed if key in value)
    idle = [key for key, entry in value.items() if key != way and key not in allowed[way] and entry is not None]
    return f"{name}: {idle[0]} has no effect beside {way}: leave it out" if idle else None


def _mask(name: str, value: Any) -> str | None:
    if value is None or _PATH(name, value) is None:
        return None
    if isinstance(value, Mapping):
        fault = _MASK(name, value)
        if fault is None and ("rate" in value) == ("file" in value):
            return f"{name} needs either a rate or a file, got {short(dict(value))}"
        return fault or _beside(name, value, {"rate": ("kinds", "seed"), "file": ("sha256",)})
    if is_number(value):
        return number(0, 1)(name, value)
    return (
        f"{name} must be the path of a mask, a rate from 0 to 1, or a rule such as {{'rate': 0.4, 'kinds': ['text']}}, "
        f"got {short(value)}"
    )


_NEW_ITEMS = fields(
    {
        "share": kind("a share above 0 and below 1", lambda value: is_number(value, 0, 1) and 0 < value < 1),
        "seed": unset_or(whole(0, 2**32 - 1)),
        "since": kind(
            "a date or seconds since 1970", lambda value: is_number(value) or is_name(value) or isinstance(value, date)
        ),
        "file": _PATH,
        "sha256": _TEXT,
    }
)


def _new_items(name: str, value: Any) -> str | None:
    if value is None or _PATH(name, value) is None:
        return None
    if isinstance(value, Mapping):
        fault = _NEW_ITEMS(name, value)
        if fault is None and sum(key in value for key in ("share", "since", "file")) != 1:
            return f"{name} needs one of share, since and file, got {short(dict(value))}"
        return fault or _beside(name, value, {"share": ("seed",), "since": (), "file": ("sha256",)})
    if is_number(value, 0, 1) and 0 < value < 1:
        return None
    return (
        f"{name} must be the path of a list, a share above 0 and below 1, or a mapping such as "
        f"{{'since': '2014-05-01'}}, got {short(value)}"
    )


_CLIP = fields(
    {
        "max_norm": ABOVE_ZERO,
        "norm_type": kind("a number above 0, or inf", lambda v: v == math.inf or (is_number(v, 0) and v > 0)),
        "error_if_nonfinite": _FLAG,
        "foreach": unset_or(_FLAG),
    },
    needed=["max_norm"],
)


def _clip(name: str, value: object) -> str | None:
    if not value and not isinstance(value, (str, list, tuple)):
        return None  # off
    if isinstance(value, Mapping):
        return _CLIP(name, value)
    return f"{name} must be a mapping such as {{'max_norm': 5}}, got {short(value)}"


def _elsewhere(name: str, value: object) -> None:
    """A key that is checked in another module."""


def _or_no_sampling(check: Check) -> Check:
    return lambda name, value: None if value in _NO_SAMPLING else check(name, value)


_SAMPLING = fields(
    {
        "distribution": _or_no_sampling(one_of("uniform", "popularity")),
        "sample_num": _or_no_sampling(whole(1, 10**6)),
        # to a higher power, popularities vanish
        "alpha": _or_no_sampling(number(0, 10)),
        "dynamic": _FLAG,
        "candidate_num": whole(0, 10**6),
    }
)


def _sampling(name: str, value: Any) -> str | None:
    if value in (None, "None"):
        return None
    fault = _SAMPLING(name, value)
    if fault is None and value.get("dynamic") and not value.get("candidate_num"):
        return f"{name}: dynamic sampling chooses among candidates: give their number as 'candidate_num', such as 10"
    return fault


# ------------------------------------------------------------------------------------------------------------
# all keys

#: configuration key -> check of its value; any other key is checked by its default (:func:`by_default`)
CHECKS: dict[str, Check] = {
    # environment
    "seed": whole(0, 2**32 - 1),
    "worker": whole(0, 1024),
    "gpu_id": kind(
        "the number of a GPU, several separated by commas, or '' for none",
        lambda v: isinstance(v, str) or is_whole(v) or (isinstance(v, tuple) and all(is_whole(n, 0) for n in v)),
    ),
    "state": unset_or(_TEXT),
    "data_path": _PATH,
    "checkpoint_dir": _PATH,
    "dataset_save_path": unset_or(_PATH),
    "dataloaders_save_path": unset_or(_PATH),
    "wandb_project": unset_or(_TEXT),
    **dict.fromkeys(("reproducibility", "shuffle", "require_pow", "use_gpu"), _FLAG),
    **dict.fromkeys(("show_progress", "save_dataset", "save_dataloaders", "log_wandb"), _FLAG),
    "nproc": whole(1, 4096),
    "world_size": kind("a whole number from 1, or -1", lambda v: is_whole(v, 1, 2**16) or (is_whole(v) and v == -1)),
    "group_offset": whole(0, 2**16),
    "ip": _TEXT,
    "port": kind("a port from 1 to 65535", lambda v: is_whole(v, 1, 65535) or (isinstance(v, str) and v.isdecimal())),
    # training
    "epochs": whole(0),
    "train_batch_size": whole(1),
    "learner": _learner,
    "learning_rate": number(0),
    "weight_decay": number(0),
    "train_neg_sample_args": _sampling,
    **dict.fromkeys(("enable_amp", "enable_scaler"), kind("True or False", lambda value: isinstance(value, bool))),
    "eval_step": whole(0),
    "stopping_step": kind("a number from 0", lambda v: v == math.inf or is_number(v, 0)),
    "clip_grad_norm": _clip,
    "loss_decimal_place": unset_or(whole(0, 100)),
    "transform": unset_or(one_of(*_TRANSFORMS)),
    "loss_type": _TEXT,
    # evaluation
    "eval_args": fields(
        {
            "split": _split,
            "group_by": unset_or(one_of("user", "none", fold=True)),
            "order": one_of("RO", "TO"),
            "mode": _mode,
        }
    ),
    "repeatable": _FLAG,
    "metrics": _metrics,
    "topk": kind(
        "a whole number from 1 or a list of them",
        lambda value: (
            is_whole(value, 1) or (isinstance(value, list) and bool(value) and all(is_whole(k, 1) for k in value))
        ),
    ),
    "valid_metric": _TEXT,
    "valid_metric_bigger": _FLAG,
    "metric_decimal_place": whole(0, 100),
    "eval_batch_size": kind("a positive number of user x item pairs", lambda value: is_whole(value, 1)),
    # data
    "seq_separator": _TEXT,
    **dict.fromkeys(("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD"), unset_or(_NAME)),
    **dict.fromkeys(("LABEL_FIELD", "NEG_PREFIX", "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "POSITION_FIELD"), _NAME),
    **dict.fromkeys(("HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD"), _NAME),
    "seq_len": unset_or(mapping_of(whole(1), "a mapping of columns to lengths")),
    "threshold": unset_or(mapping_of(number(), "a mapping of one column to a number, such as {'rating': 4}")),
    "numerical_features": _NAMES,
    **dict.fromkeys(("encoding", "field_separator"), _elsewhere),
    # recbole_mambarec.data checks them where it reads them
    **dict.fromkeys(
        ("load_col", "unload_col", "unused_col", "benchmark_filename", "additional_feat_suffix"), _elsewhere
    ),
    "val_interval": unset_or(
        mapping_of(
            lambda name, value: None if isinstance(value, (list, tuple)) and value else _INTERVALS(name, value),
            "a mapping of columns to intervals, such as {'rating': '[3,inf)'}",
        )
    ),
    "filter_inter_by_user_or_item": _FLAG,
    **dict.fromkeys(("user_inter_num_interval", "item_inter_num_interval"), unset_or(_INTERVALS)),
    **dict.fromkeys(("entity_kg_num_interval", "relation_kg_num_interval"), unset_or(_INTERVALS)),
    **dict.fromkeys(
        ("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"), unset_or(_NAMES)
    ),
    "preload_weight": unset_or(mapping_of(_NAME, "a mapping of id columns to columns of vectors")),
    "normalize_field": unset_or(_NAMES),
    "normalize_all": unset_or(_FLAG),
    "discretization": unset_or(
        mapping_of(
            fields({"method": one_of("ED", "LD"), "bucket": whole(1)}, needed=["method"]),
            "a mapping of columns to methods, such as {'age': {'method': 'ED', 'bucket': 5}}",
        )
    ),
    "kg_reverse_r": _FLAG,
    "MAX_ITEM_LIST_LENGTH": whole(1),
    # this package
    "preset": unset_or(_NAME),
    "memory_limit": unset_or(number(0)),
    **dict.fromkeys(("temperature", "user_temperature", "ssl_temperature"), unset_or(ABOVE_ZERO)),
    **dict.fromkeys(("inter_temperature", "intra_temperature", "align_temperature"), ABOVE_ZERO),
    "mmd_bandwidth": ABOVE_ZERO,
    # models in closed form
    "feature_reg": ABOVE_ZERO,
    **dict.fromkeys(("user_discount", "item_discount", "history_discount", "popularity", "shrink"), number(0)),
    **dict.fromkeys(("feature_weight", "neighbour_weight", "spread_weight"), number(0)),
    "feature_width": whole(0),
    **dict.fromkeys(("sparse_k", "dense_items"), whole(1)),
    "filter": list_of(number(), "a list of numbers, the weights of one, two, ... hops", empty=False, tuples=False),
    "knn_search": unset_or(one_of("exact", "approximate")),
    "cache_dir": unset_or(_PATH),
    "resume_from": unset_or(_PATH),
    "modalities": lambda name, value: None if value is None or isinstance(value, str) else _NAMES(name, value),
    "missing_modalities": _mask,
    "impute_missing": unset_or(
        one_of("mean", "zero", "neighbours", "propagate", "knn-interactions", "drop", "learned")
    ),
    "impute_neighbours": whole(1),
    "new_items": _new_items,
    "rank_items": one_of("all", "new"),
    "cold_items": one_of("id", "content", "neighbours"),
    "cold_scale": number(0),
    "cold_users": one_of("id", "popularity", "features"),
    "user_features": lambda name, value: None if value is None or isinstance(value, str) else _NAMES(name, value),
    "user_neighbours": whole(1),
    "modality_dropout": kind("a number from 0 to below 1", lambda value: is_number(value, 0, 1) and value < 1),
    **dict.fromkeys(("self_dropout", "mutual_dropout"), number(0, 1)),
    "derive_modalities": unset_or(mapping_of(_recipe, "a mapping of modalities to recipes")),
}


def value_fault(key: str, value: object, default: object = None) -> str | None:
    """A sentence about what is wrong with ``value`` for the configuration key ``key``, or None.

    Args:
        default: the key's default, whose type decides for a key that :data:`CHECKS` does not list; None: any value
            passes.
    """
    if key in CHECKS:
        return CHECKS[key](key, value)
    same = type(value) is type(default) and value == default
    return None if default is None or same else by_default(key, default)(key, value)


# keys of RecBole's models whose names say that they are whole numbers; some of RecBole's defaults do not (250.0, 1)
_COUNTS = re.compile(
    r"(^|_)(n|num|size|dim|dims|dimension|layers?|heads|length|len|rank|epochs?|steps?|k|depth|hops?)($|_)"
)
_NOT_EMPTY = re.compile(r"(size|dim|dimension|heads|rank|num_layers)$")


def by_default(key: str, default: object) -> Check:
    """The check for a key of one of RecBole's models, derived from its default."""
    if isinstance(default, bool):
        return _FLAG
    if isinstance(default, int) and _COUNTS.search(key):
        return whole(1 if _NOT_EMPTY.search(key) else min(default, 0))
    if isinstance(default, (int, float)):
        return number(0, 1) if "drop" in key else number()
    if isinstance(default, str):
        return kind("text", lambda value: isinstance(value, str))
    if isinstance(default, list):
        if default and all(is_whole(entry, 1) for entry in default):
            return list_of(whole(1), "a list of one or more whole numbers from 1", empty=False, tuples=False)
        if default and all(is_number(entry) for entry in default):
            return list_of(number(), "a list of numbers", tuples=False)
        return kind("a list", lambda value: isinstance(value, (list, tuple)))
    if isinstance(default, dict):
        return kind("a mapping", lambda value: isinstance(value, Mapping))
    return lambda name, value: None


# ------------------------------------------------------------------------------------------------------------
# combinations of values


def combination_fault(final: Mapping, given: Mapping) -> str | None:
    """A sentence about values that exclude each other, or None.

    Args:
        final: the configuration after RecBole has completed it, in which each value has passed its own check.
        given: what the user gave.
    """
    return _first(check(final, given) for check in _COMBINATIONS)


def incomplete_fault(final: Mapping, input_type: object) -> str | None:
    """As :func:`combination_fault`, for combinations with which RecBole cannot complete the configuration.

    Args:
        final: the configuration so far.
        input_type: the ``InputType`` of the model's class; None where ``loss_type`` decides.
    """
    names = [final["metrics"]] if isinstance(final["metrics"], str) else final["metrics"]
    kinds = {name: metric_types[name.lower()] for name in names}
    if len(set(kinds.values())) > 1:
        ranks = [name for name, kind in kinds.items() if kind == EvaluatorType.RANKING]
        values = [name for name in kinds if name not in ranks]
        return (
            f"metrics: {ranks[0]} ranks items and {values[0]} compares scores with labels, and one run cannot compute "
            "both: keep one kind"
        )
    mode = final["eval_args"].get("mode", "full")
    if EvaluatorType.VALUE in kinds.values() and "full" in (mode.values() if isinstance(mode, Mapping) else [mode]):
        return (
            f"metrics: {names[0]} compares scores with labels, and there are none in eval_args['mode'] 'full': "
            "use 'labeled' or 'uni100', or metrics such as [Recall, NDCG]"
        )
    if final["MODEL_TYPE"] == ModelType.SEQUENTIAL and not final["repeatable"]:
        return f"repeatable must be True for {final['model']}, whose next item may be one that the user has had before"
    if input_type is None:
        loss = final.get("loss_type")
        if loss not in ("CE", "BPR"):
            return f"loss_type must be CE or BPR for {final['model']}, got {short(loss)}"
        if loss == "CE" and final["MODEL_TYPE"] == ModelType.SEQUENTIAL and samples_negatives(final):
            return (
                f"{final['model']} with loss_type CE compares with all items and samples no negative ones: "
                "set train_neg_sample_args=None, or loss_type=BPR"
            )
    return None


def _chosen_by_a_computed_metric(final: Mapping, given: Mapping) -> str | None:
    name = final["valid_metric"]
    metric, at, cutoff = name.lower().partition("@")
    computed = [m.lower() for m in final["metrics"]]
    cutoffs = [str(k) for k in final["topk"]]
    metrics, best = ", ".join(final["metrics"]), final["topk"][-1]
    if metric not in computed:
        return f"valid_metric '{name}' is not computed: choose one of the metrics {metrics}" + _at(final)
    whole_list = final["eval_type"] == EvaluatorType.VALUE or metric == "gauc"
    if whole_list and at:
        return f"valid_metric '{name}' has a cut-off, but {metric} has none: write {name.partition('@')[0]}"
    if not whole_list and cutoff not in cutoffs:
        if not at:
            return f"valid_metric '{name}' lacks a cut-off: write {name}@{best}, or another one of topk"
        return f"valid_metric '{name}' is not computed: choose one of the metrics {metrics}" + _at(final)
    return None


def _at(final: Mapping) -> str:
    if final["eval_type"] == EvaluatorType.VALUE:
        return ""
    return f" at one of the cut-offs {', '.join(map(str, final['topk']))}"


def _metrics_suit_the_mode(final: Mapping, given: Mapping) -> str | None:
    modes = final["eval_args"]["mode"].values()
    if final["eval_type"] == EvaluatorType.RANKING and "labeled" in modes:
        return (
            f"eval_args['mode'] 'labeled' ranks nothing, but the metric {final['metrics'][0]} needs a ranking: "
            "use 'full' or 'uni100', or metrics such as [AUC, LogLoss]"
        )
    return None


def _split_is_known(final: Mapping, given: Mapping) -> str | None:
    if final["eval_args"]["split"] is None and final.get("benchmark_filename") is None:
        return "eval_args['split'] is unset and the data are not split: set it, for instance to {'RS': [0.8, 0.1, 0.1]}"
    return None


def _transform_does_something(final: Mapping, given: Mapping) -> str | None:
    named = final.get("transform")
    key = _TRANSFORMS.get(named)
    if key is not None and not is_number(final.get(key), 0, 1):
        return f"transform '{named}' needs {key}, a number from 0 to 1: set it, for instance to 0.2"
    if named != "user_defined":
        return None
    from recbole.data.transform import UserDefinedTransform

    code = UserDefinedTransform.__call__.__code__
    if not code.co_names and set(code.co_consts) <= {None}:
        return (
            "transform 'user_defined' stands for a class that is empty in RecBole: define a __call__(dataset, "
            "interaction) of recbole.data.transform.UserDefinedTransform, or leave transform out"
        )
    return None


def _sequences_are_in_order(final: Mapping, given: Mapping) -> str | None:
    if final["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        named = final.get("transform")
        if named not in (None, "user_defined"):
            return f"transform '{named}' changes sequences, but {final['model']} does not read any: leave it out"
        return None
    split, order = final["eval_args"]["split"], final["eval_args"]["order"]
    if final.get("benchmark_filename") is None and order != "TO":
        return f"eval_args['order'] must be TO for {final['model']}, which reads sequences, got '{order}'"
    if final.get("benchmark_filename") is None and "LS" not in split:
        return (
            f"eval_args['split'] must be {{'LS': 'valid_and_test'}} (or valid_only, test_only) for {final['model']}, "
            f"which reads sequences, got {short(split)}"
        )
    return None


_COLUMN_KEYS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "RATING_FIELD", "LABEL_FIELD")


def _keys_of_columns_agree(final: Mapping, given: Mapping) -> str | None:
    if final.get("normalize_field") and final.get("normalize_all"):
        return "normalize_field and normalize_all exclude each other: set one of the two"
    if (final.get("USER_ID_FIELD") is None) != (final.get("ITEM_ID_FIELD") is None):
        return "USER_ID_FIELD and ITEM_ID_FIELD must be set together: name both columns"
    for first, second in itertools.combinations(_COLUMN_KEYS, 2):
        # ratings that serve as labels are one column
        if final.get(first) is not None and final.get(first) == final.get(second) and first != "RATING_FIELD":
            return f"{first} and {second} both name the column '{final[first]}': give each a column of its own"
    unlisted = [f for f in final.get("discretization") or {} if f not in final["numerical_features"]]
    if unlisted:
        return f"discretization names '{unlisted[0]}', which is missing in numerical_features: add it there"
    threshold = final.get("threshold")
    if threshold is not None and len(threshold) != 1:
        return f"threshold must name one column, such as {{'rating': 4}}, got {short(threshold)}"
    return None


def _columns_of_users_are_read(final: Mapping, given: Mapping) -> str | None:
    columns = final.get("user_features")
    if final.get("cold_users") != "features":
        # the default has no effect either, but may be in a file that lists all keys
        others = given.get("user_neighbours") not in (None, DEFAULT_USER_NEIGHBOURS)
        key = "user_features" if columns is not None else "user_neighbours" if others else None
        if key is None:
            return None
        return f"{key} has no effect without cold_users=features, which alone compares users: set it as well"
    if columns is not None and not columns:
        return "user_features names no column: name at least one, or leave it out to use all"
    return None


def _wandb_is_there(final: Mapping, given: Mapping) -> str | None:
    if final.get("log_wandb") and importlib.util.find_spec("wandb") is None:
        return "log_wandb needs the package wandb, which is not installed: pip install wandb"
    return None


def _processes_are_no_configuration(final: Mapping, given: Mapping) -> str | None:
    """Several processes are started before there is a configuration; the configuration of each has a ``local_rank``."""
    if "local_rank" in given:
        return None
    several = [key for key in ("nproc", "world_size") if is_whole(given.get(key)) and given[key] > 1]
    if several:
        key = several[0]
        return (
            f"{key}={given[key]} has no effect in a configuration: pass it to recbole.quick_start.run"
            f"(..., {key}={given[key]}) or, on the command line, to {typed('run')} --{key}={given[key]}"
        )
    return None


_COMBINATIONS = (
    _processes_are_no_configuration,
    _metrics_suit_the_mode,
    _chosen_by_a_computed_metric,
    _split_is_known,
    _sequences_are_in_order,
    _transform_does_something,
    _keys_of_columns_agree,
    _columns_of_users_are_read,
    _wandb_is_there,
)


def threshold_warning(final: Mapping) -> tuple[str | None, bool]:
    """Whether the labels that ``threshold`` makes are read by training and by evaluation.

    Where they are not, interactions below the threshold count as positive like all others.

    Returns:
        A sentence about the part of the run that ignores the labels, or None; and whether both parts do.
    """
    if not final.get("threshold"):
        return None, False
    # sampled negatives get the label 0, everything in the data 1
    trained = not samples_negatives(final) and _reads_labels(final)
    tested = set(final["eval_args"]["mode"].values()) == {"labeled"}
    if trained and tested:
        return None, False
    if not trained and not tested:
        return (
            "threshold has no effect, because neither training nor evaluation reads the labels that it makes: "
            f"interactions below it count like the others; {_alternatives(final)}",
            True,
        )
    part = "evaluation" if trained else "training"
    return (
        f"threshold has no effect on {part}, where interactions below it count like the others; {_alternatives(final)}",
        False,
    )


def samples_negatives(final: Mapping) -> bool:
    """Whether training samples negative items."""
    sampling = final.get("train_neg_sample_args")
    return isinstance(sampling, Mapping) and sampling.get("distribution", "uniform") not in _NO_SAMPLING


def _reads_labels(final: Mapping) -> bool:
    return final["MODEL_TYPE"] in (ModelType.CONTEXT, ModelType.DECISIONTREE) or (
        final["MODEL_TYPE"] == ModelType.GENERAL and final["MODEL_INPUT_TYPE"].name == "POINTWISE"
    )


def _alternatives(final: Mapping) -> str:
    ((column, least),) = final["threshold"].items()
    return (
        f"val_interval={{'{column}': '[{least},inf)'}} keeps only the interactions from {least} on, and "
        "eval_args={'mode': 'labeled'} with metrics such as AUC compares scores with labels"
    )
