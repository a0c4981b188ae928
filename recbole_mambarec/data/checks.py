"""Does the configuration fit the data? Checked for every dataset class as soon as the data are read.

In RecBole these mistakes show later, as a ``KeyError`` in a sampler, as an endless loop, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader, TrainDataLoader, UserDataLoader
from recbole.data.dataset import Dataset
from recbole.sampler import RepeatableSampler, Sampler
from recbole.sampler.sampler import KGSampler
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType, FeatureType, ModelType

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.config_checks import samples_negatives, short
from recbole_mambarec.data.missing import hidden_in_folder
from recbole_mambarec.data.new_items import NEW
from recbole_mambarec.errors import UserError

# smallest probability of drawing a negative item by popularity: with less, it takes over a million tries
_LEAST_MASS = 1e-6


def install() -> None:
    """Add the checks after RecBole's reading, filtering and splitting; a second call changes nothing."""
    wrap(Dataset, "_data_processing", _check_columns)
    wrap(Dataset, "_reset_index", _check_something_is_left)
    wrap(Sampler, "get_used_ids", _check_negatives_exist)
    wrap(RepeatableSampler, "get_used_ids", _check_another_item_exists)
    wrap(KGSampler, "get_used_ids", _check_entities)
    for loader in (FullSortEvalDataLoader, NegSampleEvalDataLoader):
        wrap(loader, "__init__", _check_ranking)
    wrap(Trainer, "fit", _check_labels)
    for loader in (TrainDataLoader, UserDataLoader):
        wrap(loader, "__init__", _check_training_split)


# ------------------------------------------------------------------------------------------------------------
# columns


def _check_columns(original: Callable, dataset: Dataset) -> None:
    """Refuse keys that name columns that are missing or of the wrong type, and faulty masks of modalities."""
    for fault in _column_faults(dataset):
        raise UserError(fault)
    original(dataset)
    # also of a model that reads no features: results per user say what the tested items lack, after the training
    if dataset.config["missing_modalities"] is not None:
        hidden_in_folder(dataset.config, Path(dataset.dataset_path), dataset.dataset_name)


def _column_faults(dataset: Dataset) -> Iterator[str]:
    config, types, name = dataset.config, dataset.field2type, dataset.dataset_name
    columns = ", ".join(types) or "none"

    def lacks(key: str, column: str) -> str:
        return (
            f"{key} names the column '{column}', which '{name}' does not have: the loaded columns are {columns} "
            "(see load_col)"
        )

    for column, interval in (config["val_interval"] or {}).items():
        if column not in types:
            yield lacks("val_interval", column)
        numeric = column in types and types[column] in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
        if column in types and numeric == isinstance(interval, (list, tuple)):
            form = "an interval such as '[3,inf)'" if numeric else "a list of the values to keep"
            yield f"val_interval['{column}'] must be {form}, got {short(interval)}"
        if column in types and types[column] in (FeatureType.FLOAT_SEQ, FeatureType.TOKEN_SEQ):
            yield f"val_interval names the column '{column}', whose values are sequences: leave it out"
    for column in config["threshold"] or {}:
        if column not in dataset.inter_feat:
            yield lacks("threshold", column)
        elif types[column] != FeatureType.FLOAT:
            yield _not_a_number("threshold", column, types)
    for column in config["numerical_features"]:
        if column in types and types[column] not in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
            yield _not_a_number("numerical_features", column, types)
    for suffix in config["unused_col"] or {}:
        if getattr(dataset, f"{suffix}_feat", None) is None:
            yield f"unused_col names the file .{suffix} of '{name}', which is not loaded: leave it out"
    for key in ("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"):
        for column in config[key] or ():
            if column not in types:
                yield lacks(key, column)
            elif types[column] not in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ):
                kind = types[column].value
                yield f"{key} names the column '{column}', which does not hold ids (type {kind}): name another"
    for key in ("normalize_field", "discretization"):
        for column in config[key] or ():
            if column not in types:
                yield lacks(key, column)
            elif types[column] not in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                yield _not_a_number(key, column, types)
    for key in ("seq_len", "preload_weight"):
        for column in config[key] or {}:
            if column not in types:
                yield lacks(key, column)
    if dataset.benchmark_filename_list is None:
        split = config["eval_args"]["split"] or {}
        if (config["eval_args"]["order"] == "TO" or "TS" in split) and dataset.time_field not in dataset.inter_feat:
            key = "eval_args['order'] TO" if config["eval_args"]["order"] == "TO" else "eval_args['split'] TS"
            yield (
                f"{key} needs times, and '{name}' has no column '{dataset.time_field}': name it with TIME_FIELD and "
                f"load_col (loaded columns are {columns}), or use the order RO"
            )


def _not_a_number(key: str, column: str, types: dict) -> str:
    return f"{key} names the column '{column}', which is not a number (type {types[column].value}): name another"


# ------------------------------------------------------------------------------------------------------------
# what is left


def _check_something_is_left(original: Callable, dataset: Dataset) -> None:
    for feat_name in dataset.feat_name_list:
        if getattr(dataset, feat_name).empty:
            what = {"inter_feat": "interaction", "user_feat": "user", "item_feat": "item"}.get(feat_name, feat_name)
            keys = ("user_inter_num_interval", "item_inter_num_interval", "val_interval")
            unset: tuple[object, ...] = (None, "[0,inf)", {})
            given = [f"{key}={short(dataset.config[key])}" for key in keys if dataset.config[key] not in unset]
            raise UserError(
                f"no {what} of '{dataset.dataset_name}' is left after filtering"
                + (f" by {', '.join(given)}: relax it" if given else ": check its files and the filters")
            )
    original(dataset)


def _check_training_split(original: Callable, loader, config, dataset, *args, **kwargs) -> None:
    """Refuse an empty training split."""
    if len(dataset) == 0:
        raise UserError(
            f"no interaction of '{dataset.dataset_name}' is left for training: change eval_args['split'], "
            f"got {short(config['eval_args']['split'])}"
        )
    original(loader, config, dataset, *args, **kwargs)


def _check_ranking(original: Callable, loader, config, dataset, *args, **kwargs) -> None:
    """Refuse cut-offs beyond the number of items."""
    if config["eval_type"] == EvaluatorType.RANKING and max(config["topk"]) > dataset.item_num:
        raise UserError(
            f"topk {config['topk']} asks for more items than the {dataset.item_num - 1} of '{dataset.dataset_name}': "
            "choose smaller cut-offs"
        )
    original(loader, config, dataset, *args, **kwargs)


def _check_labels(original: Callable, trainer: Trainer, train_data, valid_data=None, *args, **kwargs):
    """Refuse training on labels, or evaluating by labels, if there are none."""
    config, dataset = trainer.config, train_data._dataset
    learns = config["MODEL_TYPE"] in (ModelType.CONTEXT, ModelType.DECISIONTREE)
    if learns and not samples_negatives(config.final_config_dict) and dataset.label_field not in dataset.inter_feat:
        raise UserError(
            f"{config['model']} learns from labels, and {_no_label(dataset)}; or draw negative items with "
            "train_neg_sample_args={'distribution': 'uniform', 'sample_num': 1}"
        )
    if "labeled" in config["eval_args"]["mode"].values() and dataset.label_field not in dataset.inter_feat:
        raise UserError(f"eval_args['mode'] 'labeled' needs labels, and {_no_label(dataset)}")
    return original(trainer, train_data, valid_data, *args, **kwargs)


def _no_label(dataset: Dataset) -> str:
    columns = ", ".join(dataset.inter_feat.columns)
    return (
        f"'{dataset.dataset_name}' has no column '{dataset.label_field}': make labels with threshold, such as "
        f"{{'rating': 4}}, or name a column with LABEL_FIELD (loaded: {columns})"
    )


# ------------------------------------------------------------------------------------------------------------
# negative items


def _check_negatives_exist(original: Callable, sampler: Sampler):
    """Refuse users for whom no negative item can be drawn; sampling by popularity would loop endlessly."""
    try:
        used = original(sampler)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        users, _ = _pairs_of(sampler)
        full = np.flatnonzero(np.bincount(users, minlength=sampler.user_num) >= sampler.item_num - 1)
        raise UserError(
            f"{_users(sampler, full)} interacted with all {sampler.item_num - 1} items, so there is no negative "
            f"item to draw for them: exclude them with user_inter_num_interval='[0,{sampler.item_num - 2}]', or add "
            "items without interactions to the .item file"
        ) from error
    new = getattr(sampler.datasets[0], NEW, None)
    if new is not None:
        _check_known_items_are_left(sampler, int((~new[1:]).sum()))
    modes = sampler.datasets[0].config["eval_args"]["mode"].values()
    if sampler.distribution == "popularity" or any(mode.startswith("pop") for mode in modes):
        _check_popularity(sampler)
    return used


def _check_known_items_are_left(sampler: Sampler, n_known: int) -> None:
    """Negative items of the training are not new; a user who has all others would let it loop endlessly."""
    training = sampler.datasets[0]
    users, items = (training.inter_feat[field].numpy() for field in (sampler.uid_field, sampler.iid_field))
    pairs = np.unique(users.astype(np.int64) * sampler.item_num + items)
    full = np.flatnonzero(np.bincount(pairs // sampler.item_num, minlength=sampler.user_num) >= n_known)
    if len(full):
        raise UserError(
            f"{_users(sampler, full)} interacted with all {n_known} items that new_items leaves in the training, so "
            "there is no negative item to draw: name fewer new items"
        )


def _check_popularity(sampler: Sampler) -> None:
    users, items = _pairs_of(sampler)
    drawn = np.concatenate([part.inter_feat[sampler.iid_field].numpy() for part in sampler.datasets])
    weights = (np.bincount(drawn, minlength=sampler.item_num) / max(len(drawn), 1)) ** sampler.alpha
    weights[0] = 0  # padding
    weights[np.bincount(drawn, minlength=sampler.item_num) == 0] = 0
    total = weights.sum()
    if not total > 0:
        raise UserError(
            f"train_neg_sample_args['alpha'] {sampler.alpha} leaves no item to draw: choose a value around 1"
        )
    left = 1 - np.bincount(users, weights=weights[items] / total, minlength=sampler.user_num)
    full = np.flatnonzero(left < _LEAST_MASS)
    if len(full):
        raise UserError(
            f"{_users(sampler, full)} interacted with (nearly) all items that are drawn by popularity: draw "
            "uniformly, or use a smaller alpha"
        )


def _pairs_of(sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """(users, items) of the distinct pairs in all splits, (pairs,) each."""
    users = np.concatenate([part.inter_feat[sampler.uid_field].numpy() for part in sampler.datasets])
    items = np.concatenate([part.inter_feat[sampler.iid_field].numpy() for part in sampler.datasets])
    return np.divmod(np.unique(users.astype(np.int64) * sampler.item_num + items), sampler.item_num)


def _users(sampler: Sampler, found: np.ndarray) -> str:
    data = sampler.datasets[0]
    one = f"user '{data.id2token(sampler.uid_field, int(found[0]))}' of '{data.dataset_name}'"
    return f"{one} has" if len(found) == 1 else f"{one} and {len(found) - 1} more have"


def _check_another_item_exists(original: Callable, sampler: RepeatableSampler):
    if sampler.item_num <= 2:
        raise UserError(
            f"'{sampler.dataset.dataset_name}' has only one item, so there is no other one to draw as a negative: "
            "use data with more items"
        )
    return original(sampler)


def _check_entities(original: Callable, sampler: KGSampler):
    tails = np.unique(np.stack([np.asarray(sampler.hid_list), np.asarray(sampler.tid_list)]), axis=1)
    full = np.flatnonzero(np.bincount(tails[0], minlength=sampler.entity_num) >= sampler.entity_num - 1)
    if len(full):
        raise UserError(
            f"{len(full)} entities of '{sampler.dataset.dataset_name}' have a relation to all others, so there is no "
            "negative entity to draw for them: use a larger .kg file"
        )
    return original(sampler)
