"""The configuration of a finished run, as it was when its checkpoint was written, on the machine at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from recbole.config import Config
from recbole.quick_start import quick_start
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_mambarec.checkpoint import CHECKPOINT_FORMAT, is_fusion
from recbole_mambarec.compat.checkpoints import load_checkpoint, torch_load_replaced
from recbole_mambarec.compat.patching import replace, wrap
from recbole_mambarec.config import no_command_line
from recbole_mambarec.renamed import under_new_names

# derived values that a checkpoint of this package holds by name
_BY_NAME = {"MODEL_TYPE": ModelType, "MODEL_INPUT_TYPE": InputType, "eval_type": EvaluatorType}
#: keys by which ``Config`` reads the folder of a dataset
KEYS_OF_THE_FILES = (
    *("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "field_separator", "encoding"),
    "benchmark_filename",
)
# what belongs to the machine and the processes that trained, and what would continue the training
_OF_THE_RUN = frozenset(
    (
        *("device", "gpu_id", "use_gpu", "single_spec", "local_rank", "data_path", "resume_from"),
        *("nproc", "world_size", "ip", "port", "offset", "group_offset"),
    )
)


def install() -> None:
    """Let RecBole's ``load_data_and_model`` load checkpoints of this package; a second call changes nothing.

    It loads others by the rules of :mod:`~recbole_mambarec.compat.checkpoints`, on the machine at hand.
    """
    wrap(quick_start, "load_data_and_model", _load_data_and_model)
    replace(sys.modules["recbole.quick_start"], "load_data_and_model", quick_start.load_data_and_model)


class _Fusion(Exception):
    """The file that is being loaded holds several models."""


def _load_data_and_model(original: Callable, *args, **kwargs):
    try:
        with torch_load_replaced(_load_with_config):
            return original(*args, **kwargs)
    except _Fusion as fusion:
        from recbole_mambarec.scoring.restore import load_fusion

        return load_fusion(*fusion.args)


def _load_with_config(*args, **kwargs):
    """A checkpoint with the ``Config`` that RecBole expects in it."""
    # RecBole moves the model to its device later, which need not be the one that it was trained on
    checkpoint = load_checkpoint(*args, **{"map_location": "cpu"} | kwargs)
    if is_fusion(checkpoint):
        raise _Fusion(args[0])
    if isinstance(checkpoint, Mapping) and str(checkpoint.get("format")).startswith(CHECKPOINT_FORMAT):
        return {**checkpoint, "config": config_from_checkpoint(checkpoint["config"])}
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("config"), Config):
        return {**checkpoint, "config": on_this_machine(checkpoint["config"])}
    return checkpoint


def config_from_checkpoint(values: dict) -> Config:
    """A ``Config`` with the final values that a checkpoint of this package was written with.

    The values are put in place as they are. Read as a user's input, some would have another meaning: a model without
    sampled negatives ends up with the distribution ``none``, which no user may give. The command line of the present
    process has no effect. Keys that the checkpoint lacks have their defaults, and the machine at hand decides on the
    device. An old checkpoint can be read even where later versions no longer accept one of its values.

    Args:
        values: ``config`` of the checkpoint.

    Raises:
        UserError: the dataset's folder is not where it was, or the model is unknown.
    """
    values = under_new_names(values["model"], values)
    name = values["dataset"]
    # Config appends the dataset's name to the path, except for the embedded dataset, whose place it knows
    given = {} if name == "ml-100k" else {"data_path": str(Path(values["data_path"]).parent)}
    given |= {key: values[key] for key in KEYS_OF_THE_FILES if values.get(key) is not None}
    with no_command_line():
        config = Config(model=values["model"], dataset=name, config_dict=given)
    final = {key: value for key, value in values.items() if key not in _OF_THE_RUN}
    final |= {key: kind[final[key]] for key, kind in _BY_NAME.items() if key in final}
    config.final_config_dict.update(final)
    return config


def on_this_machine(config: Config) -> Config:
    """A ``Config`` that RecBole has pickled, changed for a single process and a device that exists.

    RecBole keeps the processes and the device of the run that wrote it: after a run of several processes, loading
    would wait for the others, and after one on a GPU, it would fail without one.
    """
    config.compatibility_settings()  # names of numpy that RecBole's metrics read; an unpickled Config has not set them
    final = config.final_config_dict
    final.update(single_spec=True, local_rank=0)
    device = final["device"]
    if device.type == "cuda":
        final["device"] = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return config
