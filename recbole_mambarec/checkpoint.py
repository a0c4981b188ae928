"""Checkpoint files: tensors and plain values only, so that reading one runs no code stored in it.

A file describes two moments of a run. The top level is the best epoch, under the names that RecBole uses
(``state_dict``, ``other_parameter``, ``epoch``, ``best_valid_score``, ``best_valid_result``, besides ``model`` and
``config``), so that its ``state_dict`` has the best parameters. ``resume`` is the state of the run when the file was
written: ``epoch``, ``cur_step``, ``best_valid_score``, ``best_valid_result``, ``other_parameter``, ``optimizer``,
``optimizers_apart`` (of the parts of a model that are trained apart, by name), ``scheduler``, ``random``, ``data``
(fingerprint of the data), and ``state_dict``, which is None if that epoch is the best one. Earlier files lack
``optimizers_apart`` and ``data``.
"""

from __future__ import annotations

import random
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_mambarec.errors import UserError
from recbole_mambarec_common.files import atomic_file

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import AbstractRecommender

#: ``checkpoint["format"]`` of the plain-value checkpoints of this package starts with this.
CHECKPOINT_FORMAT = "recbole_mambarec.checkpoint/"
_FORMAT = CHECKPOINT_FORMAT + "2"
#: ``format`` of a file that holds several models, and their weights (:mod:`recbole_mambarec.scoring.restore`).
FUSION_FORMAT = "recbole_mambarec.fusion/1"
# of files written at every improvement: the two moments were the same, and all keys are at the top level
_FORMAT_OF_ONE_MOMENT = CHECKPOINT_FORMAT + "1"


@dataclass
class BestEpoch:
    """A copy of the best epoch in the CPU's memory; it exists once and is overwritten."""

    epoch: int
    best_valid_score: float
    best_valid_result: dict | None
    state_dict: dict[str, Tensor]
    other_parameter: dict | None

    @classmethod
    def of(
        cls,
        model: AbstractRecommender,
        epoch: int,
        score: float,
        result: dict | None,
        previous: BestEpoch | None = None,
    ) -> BestEpoch:
        """Copy the current parameters, into the memory of ``previous`` if it is given."""
        memory = {} if previous is None else previous.state_dict
        state = model.state_dict()
        for name, value in state.items():
            copy = memory.get(name)
            if copy is None or copy.shape != value.shape:  # graphs that are learnt may have more entries than before
                copy = torch.empty_like(value, device="cpu")
            state[name] = copy.copy_(value)
        return cls(epoch, score, result, state, model.other_parameter())


def write_checkpoint(path: str | Path, model: str, config: dict, best: BestEpoch, resume: dict) -> None:
    """Write a file of this format, whole or not at all.

    Args:
        path: the file, which is replaced.
        model: name of the model.
        config: configuration as plain values.
        best: the best epoch.
        resume: the state of the run, as described above.

    Raises:
        UserError: the disk is full; an earlier file stays as it was.
    """
    state = {"format": _FORMAT, "model": model, "config": config, **vars(best), "resume": resume}
    try:
        with atomic_file(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a fault of its own
        free = shutil.disk_usage(Path(path).parent).free
        # the best epoch, the latest one, and two values of the optimizer per parameter
        needed = 4 * sum(value.nbytes for value in best.state_dict.values())
        if free > needed:
            raise
        raise UserError(
            f"the checkpoint {path} could not be written, because its disk has {free / 2**20:,.0f} MiB left: make "
            "room, or name a folder on another disk with checkpoint_dir"
        ) from error


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint that :func:`write_checkpoint` has written; its tensors stay on disk until they are used.

    On Windows, where a mapped file could not be replaced by the next checkpoint, they are read at once.

    Raises:
        UserError: there is no such file, or it is not such a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=sys.platform != "win32")
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} not found") from None
    except Exception as error:  # torch raises half a dozen types for damaged or foreign files
        raise UserError(
            f"{path} is not a checkpoint of this package, or it is damaged ({type(error).__name__}): resume from a "
            "file that a run of one of this package's models has saved"
        ) from error
    if not isinstance(state, dict) or state.get("format") not in (_FORMAT, _FORMAT_OF_ONE_MOMENT):
        raise UserError(f"{path} is not a checkpoint of this package: its format is not '{_FORMAT}'")
    resume = state.setdefault("resume", state)
    if resume["state_dict"] is None:
        resume["state_dict"] = state["state_dict"]
    return state


def is_fusion(content: object) -> bool:
    """Whether the content of a file is that of a fusion of several models."""
    return isinstance(content, dict) and content.get("format") == FUSION_FORMAT


def random_state(device: torch.device, loader: torch.Generator | None) -> dict:
    """States of all random generators that a training uses, as tensors and plain values.

    Args:
        device: of the model.
        loader: the generator that shuffles the training data, if any.
    """
    version, internal, gauss = random.getstate()
    # RecBole samples negatives from numpy's global generator
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if loader is not None:
        state["loader"] = loader.get_state()
    return state


def restore_random_state(state: dict, device: torch.device, loader: torch.Generator | None) -> None:
    """Restore the states that :func:`random_state` has returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    legacy = (name, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(state["torch"].clone())
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].clone(), device)
    if "loader" in state and loader is not None:
        loader.set_state(state["loader"].clone())


def plain(value: object) -> Any:
    """``value`` as nested dicts, lists, numbers, strings and None; enums by name, anything else as text."""
    if isinstance(value, np.generic):  # before float, of which numpy's float64 is a subclass
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry) for entry in value]
    return str(value)
