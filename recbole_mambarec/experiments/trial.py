"""One trial of a search, and the test of the chosen one: the functions that their processes run."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from recbole.data.dataset import Dataset

from recbole_mambarec.compat.checkpoints import load_checkpoint
from recbole_mambarec.experiments.plan import Run
from recbole_mambarec.experiments.run import Session, alone, curve_of, train
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.memory import peak_gib
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec_common.files import atomic_file

# what a process occupies of a GPU besides torch's tensors, approximately
_CONTEXT_GIB = 0.5


def trial(run: Run, weights: Path | None, report: Callable[[dict], None], dataset: Dataset | None = None) -> Record:
    """Train; the test split is not evaluated.

    An interrupted trial continues from its checkpoint if its trainer can do that.

    Args:
        weights: file for the weights of the best epoch, which :func:`evaluate` tests; None: they are not kept.
        report: called after each validation with ``{"entry", "memory_gib"}``, the epoch's entry of the curve and the
            peak so far, and also ``{"device_gib", "device_free_gib"}`` on a GPU.
        dataset: see :class:`~recbole_mambarec.experiments.run.Session`.

    Returns:
        The record, without test scores.

    Raises:
        UserError: the configuration or the data are faulty.
    """

    def on_epoch(entry: dict) -> None:
        report({"entry": entry, "memory_gib": peak_gib()} | _on_device())

    with alone(run), user_errors_of_recbole():
        _, record = train(run, on_epoch, dataset)
        if weights is not None:
            _keep_weights(run.checkpoint, weights)
        curve_of(run).remove()
        run.checkpoint.unlink()
    return record


def _on_device() -> dict[str, float]:
    """Memory of the GPU, if this process uses one."""
    if not torch.cuda.is_initialized():
        return {}
    device = torch.device("cuda", torch.cuda.current_device())
    return {
        "device_gib": peak_gib(device) + _CONTEXT_GIB,
        "device_free_gib": torch.cuda.mem_get_info(device)[0] / 2**30,
    }


def _keep_weights(checkpoint: Path, weights: Path) -> None:
    """Write the part of a checkpoint that :func:`evaluate` needs to a file that can be loaded without running code.

    If a model's state is more than tensors (RecBole's item neighbourhoods), no file is written, and the model is
    trained again.
    """
    state = load_checkpoint(checkpoint, map_location="cpu")
    # RecBole's trainers read the parameters only, ours also the format
    state = {key: state[key] for key in ("format", "model", "state_dict", "other_parameter") if key in state}
    try:
        with atomic_file(weights) as temporary:
            torch.save(state, temporary)
            # on Windows, a mapped file cannot be renamed
            torch.load(temporary, weights_only=True, mmap=sys.platform != "win32")
    except pickle.UnpicklingError:
        return


def evaluate(run: Run, weights: Path, report: Callable[[dict], None]) -> dict[str, dict[str, float]]:
    """Test scores, by mask, of weights that a :func:`trial` has written."""
    with user_errors_of_recbole():
        session = Session(run)
        # some metrics need the training data, which fit() usually passes on
        session.trainer.eval_collector.data_collect(session.train)
        return session.evaluate(weights)[0]
