"""What makes two runs the same run: the part of a configuration that can change a result, and a key made of it."""

from __future__ import annotations

import hashlib
import json

from recbole_mambarec.config_checks import DEFAULT_USER_NEIGHBOURS
from recbole_mambarec.renamed import under_old_names

# configuration that cannot change a result: fields of the record, where files lie, what is shown, which machine works
# and into which pieces it cuts the work, what is computed with and without it anyway (mask_valid_in_test), and what
# shows in other keys (protocol, preset)
NO_EFFECT = frozenset(
    (
        *("model", "dataset", "seed", "config_files", "config_file", "resume_from", "strict_keys"),
        *("protocol", "preset"),
        *("data_path", "checkpoint_dir", "cache_dir", "dataset_save_path", "dataloaders_save_path"),
        *("save_dataset", "save_dataloaders", "checkpoint_interval", "mask_valid_in_test"),
        *("eval_batch_size", "feature_memory", "gpu_id", "use_gpu", "device", "single_spec", "local_rank"),
        *("nproc", "ip", "port", "world_size", "offset", "group_offset"),
        *("show_progress", "state", "verbose", "log_wandb", "wandb_project", "loss_decimal_place"),
    )
)
# keys that came after the first records, with the value under which they change nothing: a default that leaves results
# as they were belongs here, so that earlier runs still count as the same ones (cl_warmup_epochs came and went)
NEUTRAL: dict[str, object] = {
    **{"worker": 0, "lr_boost": 1.0, "lr_boost_epochs": 4, "cl_warmup_epochs": 0, "ii_refresh": 1},
    # recorded runs had four epochs of more than 50 steps, and their best epochs came after 800 steps
    **{"lr_boost_steps": 200, "stopping_min_steps": 800},
    **{"missing_modalities": 0, "impute_neighbours": 10, "modality_dropout": 0.0},
    **{"rank_items": "all", "cold_items": "id", "cold_scale": 0.0, "cold_users": "id"},
    "user_neighbours": DEFAULT_USER_NEIGHBOURS,
}
# the same for keys that one model gained later, while others have been recorded with them
NEUTRAL_OF: dict[str, dict[str, object]] = {
    "COHESION": {"n_mm_layers": 1},
    "CRANE": {"variant": "paper", "feat_embed_dim": 64},
    "REARM": {"negatives_skip_held_out": False},
}


def neutral_values(model: str) -> dict:
    """Keys that came after the first records of a model, with the value under which they change nothing."""
    return NEUTRAL | NEUTRAL_OF.get(model, {})


def run_key(model: str, config: dict, seed: int, data_hash: str) -> str:
    """SHA-256 (hexadecimal) of what a result depends on.

    :data:`NO_EFFECT` and keys at their neutral value (:func:`neutral_values`) do not count. As for RecBole, an unset
    configuration key equals an absent one. 1.0 equals 1. Of a file whose hash is recorded, the name does not count. A
    renamed key counts under its old name
    (:mod:`recbole_mambarec.renamed`), so that a run recorded by an earlier version is still the same run.
    """
    same = neutral_values(model).items()
    config = under_old_names(model, config)
    counts = {name: value for name, value in config.items() if name not in NO_EFFECT and (name, value) not in same}
    content = {"model": model, "config": normal(counts), "seed": seed, "data": data_hash}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def normal(value: object) -> object:
    """A value as it counts for the key of a run: without what is unset, and without the paths of hashed files."""
    if isinstance(value, dict):
        hashed = "sha256" in value
        return {
            key: normal(entry) for key, entry in value.items() if entry is not None and not (hashed and key == "file")
        }
    if isinstance(value, list):
        return [normal(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
