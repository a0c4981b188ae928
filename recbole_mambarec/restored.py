"""The configuration of a run that is over, as it was when its checkpoint was written, on the machine at hand."""

from __future__ import annotations

from pathlib import Path

import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_mambarec.cli import no_command_line

# derived values that a checkpoint of ours holds by name
_BY_NAME = {"MODEL_TYPE": ModelType, "MODEL_INPUT_TYPE": InputType, "eval_type": EvaluatorType}
# what belongs to the machine and the processes that trained, and what would train on
_OF_THE_RUN = frozenset(
    (
        *("device", "gpu_id", "use_gpu", "single_spec", "local_rank", "data_path", "resume_from"),
        *("nproc", "world_size", "ip", "port", "offset", "group_offset"),
    )
)


def config_from_checkpoint(values: dict) -> Config:
    """A ``Config`` with the final values that a checkpoint of ours was written with.

    They are put in place as they are: read as a user's input, some would mean something else (a model without sampled
    negatives has the distribution ``none`` in the end, which nobody may ask for). The command line of the present
    process does not count; keys that the checkpoint does not know have their defaults, and the machine at hand decides
    on the device. Later changes to what is allowed do not keep an old checkpoint from being read.

    Args:
        values: ``config`` of the checkpoint.

    Raises:
        UserError: the dataset's folder is not where it was, or the model is unknown.
    """
    name = values["dataset"]
    # Config appends the dataset's name to the path; of the embedded dataset it knows the place itself
    given = {} if name == "ml-100k" else {"data_path": str(Path(values["data_path"]).parent)}
    with no_command_line():
        config = Config(model=values["model"], dataset=name, config_dict=given)
    final = {key: value for key, value in values.items() if key not in _OF_THE_RUN}
    final |= {key: kind[final[key]] for key, kind in _BY_NAME.items() if key in final}
    config.final_config_dict.update(final)
    return config


def on_this_machine(config: Config) -> Config:
    """A ``Config`` that RecBole has pickled, for one process and a device that is there.

    RecBole keeps those of the run that wrote it: after a run of several processes, loading would wait for them, and
    after one on a GPU, fail without.
    """
    final = config.final_config_dict
    final.update(single_spec=True, local_rank=0)
    device = final["device"]
    if device.type == "cuda":
        final["device"] = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return config
