"""The defaults of this package, below everything a user gives, and explanations of mistakes in a configuration.

RecBole's ``Config`` is extended at its own steps (files, values, model look-up, internal defaults, final values,
device), so that ``Config(model="MambaRec", ...)`` works wherever it is called.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

import torch
import yaml
from recbole.config import Config
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import argument_list

from recbole_mambarec import config_checks, presets, protocol, registry, renamed
from recbole_mambarec.compat.patching import record, wrap
from recbole_mambarec.config_keys import OWN_TRAINER_KEYS, check_keys
from recbole_mambarec.data import imputation, missing, new_items
from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.folder import describe
from recbole_mambarec.data.keys import check_data_keys
from recbole_mambarec.defaults import properties_folder
from recbole_mambarec.errors import UserError
from recbole_mambarec.mistakes import not_installed
from recbole_mambarec.value_checks import list_of_names
from recbole_mambarec.yaml_files import check_files, read_yaml_mapping
from recbole_mambarec_command.requirements import broken_package, broken_sentence

# keys that change what a dataset object holds: RecBole lists them with its own of this kind
DATASET_KEYS = (
    *("modalities", "derive_modalities", "missing_modalities", "mask_valid_in_test", "encoding"),
    *("new_items", "rank_items", "user_features"),
)
# keys of this package that take values of several types, which are checked where they are read
_SEVERAL_TYPES = ("reduction_factor",)
# ends of names of keys whose values are from 0 to 1
_SHARES = ("dropout_prob", "keep_rate", "prune_rate")
_AT_LEAST_ONE = (
    *("embedding_size", "knn_k", "n_neighbors", "dream_rate"),
    *("train_batch_size", "epochs", "lr_decay_epochs"),
)
# what the key beyond_accuracy adds to the metrics
BEYOND_ACCURACY = ("ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage")
# RecBole scores models without full_sort_predict pair by pair: this many at a time fit in memory
_PAIRWISE_EVAL_BATCH = 1 << 19


def default_properties(kind: str, name: str | None = None) -> dict:
    """Contents of ``properties/<kind>/<name>.yaml`` (or ``properties/<kind>.yaml``), empty if there is no such file.

    For the kind ``model``, ``name`` may also be a model of another package, which has a file of its own.

    Raises:
        UserError: the file of another package's model is not a YAML mapping, or that package cannot be imported.
    """
    path = properties_folder() / (f"{kind}.yaml" if name is None else f"{kind}/{name}.yaml")
    if kind == "model" and name in registry.names():
        path = registry.entry(name).defaults
        if path is not None and name not in registry.built_in():
            return read_yaml_mapping(path)
    if path is None or not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@contextmanager
def no_command_line() -> Iterator[None]:
    """Hide the command line inside the block from RecBole's ``Config``, which reads it in any program."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def install() -> None:
    """Extend RecBole's ``Config``; a second call changes nothing."""
    record(argument_list, "dataset_arguments")
    argument_list.dataset_arguments += [k for k in DATASET_KEYS if k not in argument_list.dataset_arguments]
    wrap(Config, "_load_config_files", check_files)
    wrap(Config, "_convert_config_dict", _convert)
    wrap(Config, "_get_model_and_dataset", _explain_unknown_model)
    wrap(Config, "_load_internal_config_dict", _add_our_defaults)
    wrap(Config, "_set_default_parameters", _finish)
    wrap(Config, "_init_device", _check_gpu)


def _convert(original: Callable, config: Config, values: dict) -> dict:
    """Leave text that cannot be evaluated as it is, whatever the error; RecBole expects only three types of errors.

    Text such as ``1/0`` or ``os.name``, which RecBole passes to ``eval``, would end in a traceback.
    """
    for key, value in values.items():
        try:
            values[key] = original(config, {key: value})[key]
        except Exception:  # raised by text that was not meant as a program
            values[key] = value
    return values


def _explain_unknown_model(original: Callable, config: Config, model, dataset):
    name = model or config.external_config_dict.get("model")
    try:
        found = original(config, model, dataset)
    except KeyError as error:
        raise UserError(f"no {error.args[0].split()[0]} is named: give it on the command line or in a file") from error
    except UserError:  # another package's model that cannot be used
        raise
    except Exception as error:
        # of any type: the look-up ends in a family that needs lightgbm and xgboost, which may be missing or broken
        if not isinstance(name, str):
            raise UserError(f"model must be the name of a model, got {config_checks.short(name)}") from error
        missing = registry.packages_missing_for(name)
        if missing:
            raise UserError(not_installed(name, missing)) from error
        failure = registry.import_failure(name)
        broken = failure and broken_package(failure)
        if broken:
            raise UserError(f"{name} needs the package {broken_sentence(broken, failure)}") from error
        models = [*registry.names(), *registry.recbole_models()]
        if name in models:
            raise
        near = difflib.get_close_matches(name.lower(), [model.lower() for model in models], n=3, cutoff=0.6)
        similar = [model for model in models if model.lower() in near]
        advice = (
            f"did you mean {' or '.join(similar)}?"
            if similar
            else f"choose one of {', '.join(registry.names())}, or one of RecBole's own"
        )
        raise UserError(f"there is no model '{name}': {advice}") from error
    if not config_checks.is_name(found[2]):
        raise UserError(f"dataset must be the name of a dataset, got {config_checks.short(found[2])}")
    return found


def _add_our_defaults(original: Callable, config: Config, model, model_class, dataset) -> None:
    original(config, model, model_class, dataset)
    given = config.external_config_dict = renamed.accept(model, config.external_config_dict)
    internal = config.internal_config_dict
    ours = model in registry.names()
    check_data_keys(given)
    _check_values(config)
    folder = _check_dataset_folder(Path(given.get("data_path", internal["data_path"])), dataset)
    settings = ChainMap(given, default_properties("dataset", dataset), internal)
    parts = (given["benchmark_filename"] or ()) if "benchmark_filename" in given else None
    described = None if folder is None else describe(folder, dataset, Layout.of(settings), parts)
    overall = default_properties("overall")
    preset = presets.choose(model, given.get("preset", overall["preset"]), folder)
    by_default = protocol.MULTIMODAL if ours or described is not None else protocol.RECBOLE
    overall["protocol"] = protocol.accept(given.get("protocol")) or by_default
    if "protocol" in given:
        given["protocol"] = overall["protocol"]
    multimodal = overall["protocol"] == protocol.MULTIMODAL

    recbole_defaults = dict(internal)
    internal.update(overall)
    if not multimodal:
        # every model knows this package's keys; RecBole's keys keep their values
        internal.update({key: value for key, value in recbole_defaults.items() if key in overall})
        internal["stopping_min_steps"] = 0
    if multimodal and model_class.full_sort_predict is AbstractRecommender.full_sort_predict:
        internal["eval_batch_size"] = _PAIRWISE_EVAL_BATCH
    of_model = default_properties("model", model) if ours else {}
    config.preset_in_use = preset
    # a model of RecBole on a dataset of RecBole behaves exactly as without this package
    config.checked_by_recbole_mambarec = ours or described is not None
    if config.checked_by_recbole_mambarec:
        internal.update(of_model)
        internal.update(default_properties("dataset", dataset))
        if described is not None:
            # the folder does not describe the files that only some models need, such as a knowledge graph
            described["load_col"] = {**(internal["load_col"] or {}), **described["load_col"]}
            internal.update(described)
        if preset is not None:
            _check_preset(preset, overall | of_model)
            internal.update(preset.values)
        check_keys(config)
        _check_our_values(given, overall | of_model)
    else:
        _check_our_values(given, {key: value for key, value in overall.items() if key not in recbole_defaults})
    if not ours:
        ineffective = [key for key in OWN_TRAINER_KEYS if given.get(key) not in (None, overall[key])]
        if ineffective:
            raise UserError(
                f"{ineffective[0]} has no effect on {model}, which is trained by RecBole's own trainer: leave it out"
            )


def _check_dataset_folder(data_path: Path, dataset: str) -> Path | None:
    """The dataset's folder; None for a dataset that comes with RecBole or that RecBole can download."""
    if dataset == "ml-100k":
        return None
    folder = data_path / str(dataset)
    if folder.is_dir():
        return folder
    import recbole

    urls = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    if dataset in (yaml.safe_load(urls.read_text(encoding="utf-8")) or {}):
        return None
    inside = data_path.iterdir() if data_path.is_dir() else []
    datasets = sorted(p.name for p in inside if p.is_dir() and not p.name.startswith("."))
    listed = ", ".join(datasets[:10]) + (f" and {len(datasets) - 10} more" if len(datasets) > 10 else "")
    found = f"{data_path} holds {listed}" if datasets else f"{data_path} holds no dataset yet"
    raise UserError(
        f"dataset '{dataset}' not found: there is no folder {folder} ({found}); prepare it with "
        "`python -m dataset_prep` or name its parent folder with --data_path=..."
    )


def _check_values(config: Config) -> None:
    """Refuse values that a key of RecBole cannot have, and keys that are not names."""
    for key, value in config.external_config_dict.items():
        if not isinstance(key, str):
            raise UserError(f"configuration keys must be names, got {config_checks.short(key)}: correct the YAML file")
        fault = config_checks.value_fault(key, value, config.internal_config_dict.get(key))
        if fault:
            raise UserError(fault)


def _check_our_values(given: dict, defaults: dict) -> None:
    """Refuse values of this package's keys that are negative or of another type than the default."""
    for key, default in defaults.items():
        if key not in given or default is None or key in _SEVERAL_TYPES:
            continue
        if key in config_checks.CHECKS and key not in _AT_LEAST_ONE:
            continue
        fault = _check_by_default(key, default)(key, given[key])
        if fault:
            raise UserError(fault)


def _check_preset(preset: presets.Preset, defaults: dict) -> None:
    """Refuse a preset (it may be another package's) with keys its model does not read or values of another type."""
    unread = [key for key in preset.values if key not in defaults]
    if unread:
        raise UserError(f"preset {preset.name} of {preset.model} sets '{unread[0]}', which the model does not read")
    try:
        _check_our_values(preset.values, defaults)
    except UserError as error:
        raise UserError(f"preset {preset.name} of {preset.model}: {error}") from None


def _check_by_default(key: str, default: object) -> config_checks.Check:
    """What a value of one of this package's keys must be, derived from the key's default."""
    if isinstance(default, bool):
        return config_checks.kind("True or False", lambda value: isinstance(value, bool))
    if isinstance(default, int):
        return config_checks.whole(int(key in _AT_LEAST_ONE))
    if isinstance(default, float):
        return config_checks.number(0, 1 if key.endswith(_SHARES) else math.inf)
    return config_checks.kind(f"a {type(default).__name__}", lambda value: isinstance(value, type(default)))


def _check_learner(final: dict) -> None:
    """Refuse what RecBole would replace with Adam."""
    if str(final["learner"]).lower() not in config_checks.LEARNERS:
        raise UserError(f"learner '{final['learner']}' is unknown: use one of {', '.join(config_checks.LEARNERS)}")


def _add_metrics(final: dict) -> None:
    """The key ``beyond_accuracy``."""
    wanted = final.get("beyond_accuracy", False)
    if not isinstance(wanted, bool):
        raise UserError(f"beyond_accuracy must be True or False, got {wanted!r}")
    if wanted:
        metrics = [final["metrics"]] if isinstance(final["metrics"], str) else list(final["metrics"])
        named = [metric.lower() for metric in metrics]
        final["metrics"] = metrics + [metric for metric in BEYOND_ACCURACY if metric.lower() not in named]


def _finish(original: Callable, config: Config) -> None:
    final = config.final_config_dict
    final["preset"] = config.preset_in_use and config.preset_in_use.name
    _add_metrics(final)
    fault = config_checks.incomplete_fault(
        final | {"model": config.model}, getattr(config.model_class, "input_type", None)
    )
    if fault:
        raise UserError(fault)
    try:
        original(config)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        # what only RecBole refuses
        raise UserError(f"the configuration is not valid: {str(error).strip()}") from error
    if config.checked_by_recbole_mambarec:
        _check_learner(final)
    folder = Path(final["data_path"])
    final["missing_modalities"] = missing.accept(final["missing_modalities"], folder)
    final["new_items"] = new_items.accept(final["new_items"], folder)
    final["user_features"] = list_of_names("user_features", final["user_features"])
    generates = getattr(config.model_class, "generates_missing", False)
    final["impute_missing"] = imputation.accept(final["impute_missing"], config.model, generates)
    fault = config_checks.combination_fault(final, config.external_config_dict) or new_items.combination_fault(final)
    if fault:
        raise UserError(fault)
    warning, unused = config_checks.threshold_warning(final)
    if unused and config.checked_by_recbole_mambarec:
        raise UserError(warning)
    if warning:
        getLogger().warning(warning)


def _check_gpu(original: Callable, config: Config) -> None:
    gpu = config.external_config_dict.get("gpu_id")
    original(config)
    if gpu in (None, "") or config.final_config_dict["device"].type != "cpu":
        return
    if not config.checked_by_recbole_mambarec:
        return
    reason = "no CUDA device is visible" if torch.version.cuda else "this build of torch has no CUDA support"
    raise UserError(f"gpu_id={gpu} asks for a GPU but {reason}: leave gpu_id out to run on the CPU")
