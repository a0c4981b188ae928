"""One trial of a search, and the test of the one that is chosen: what their processes do."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from recbole.data.dataset import Dataset

from recbole_mambarec.cli import user_errors_of_recbole
from recbole_mambarec.compat.checkpoints import load_checkpoint
from recbole_mambarec.experiments.run import Run, Session, alone, curve_of, train
from recbole_mambarec.memory import peak_gib
from recbole_mambarec_common.files import atomic_file

# what a process takes of a GPU besides torch's tensors, about
_CONTEXT_GIB = 0.5


def trial(run: Run, weights: Path | None, report: Callable[[dict], None], dataset: Dataset | None = None) -> dict:
    """Train; the test split is not evaluated.

    A trial that was interrupted goes on from its checkpoint, where its trainer can.

    Args:
        weights: where the weights of the best epoch are left, see :func:`evaluate`; None: nowhere.
        report: gets ``{"entry", "memory_gib"}`` after each validation, the epoch's entry of the curve and the peak so
            far, and ``{"device_gib", "device_free_gib"}`` where a GPU is used.
        dataset: see :class:`~recbole_mambarec.experiments.run.Session`.

    Returns:
        A record (:mod:`~recbole_mambarec.experiments.store`) without test scores.

    Raises:
        UserError: whatever the run finds wrong with its input.
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
    """Leave what :func:`evaluate` needs of a checkpoint in a file that any process can load without running code of it.

    A model whose state is more than tensors (RecBole's item neighbourhoods) leaves nothing; it is trained again.
    """
    state = load_checkpoint(checkpoint, map_location="cpu")
    # RecBole's trainers ask for the parameters alone, ours for the format, too
    state = {key: state[key] for key in ("format", "model", "state_dict", "other_parameter") if key in state}
    try:
        with atomic_file(weights) as temporary:
            torch.save(state, temporary)
            # Windows renames nothing that is mapped
            torch.load(temporary, weights_only=True, mmap=sys.platform != "win32")
    except pickle.UnpicklingError:
        return


def evaluate(run: Run, weights: Path, report: Callable[[dict], None]) -> dict[str, dict[str, float]]:
    """Test scores by mask of the weights that a :func:`trial` has left."""
    with user_errors_of_recbole():
        session = Session(run)
        # what fit() tells the metrics about the training data
        session.trainer.eval_collector.data_collect(session.train)
        return session.evaluate(weights)[0]
