"""Runs of several processes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from itertools import chain

import torch

from recbole_mambarec.compat.checkpoints import remember_checkpoint
from recbole_mambarec.compat.patching import Overlay, overlay, replace, wrap


def on_cpu() -> None:
    """Let runs of several processes use gloo on machines (or with ``gpu_id: ""``) without CUDA devices.

    ``Config`` takes nccl and ``cuda:<rank>`` for granted. The trainer passes a device number to
    ``DistributedDataParallel``, which refuses it for CPU modules, and turns BatchNorm layers into SyncBatchNorm, which
    refuses CPU tensors.

    No upstream issue known.
    """
    wrap(importlib.import_module("recbole.config.configurator").Config, "_init_device", _init_device)
    trainer = importlib.import_module("recbole.trainer.trainer")
    overlay(trainer, "torch", nn=Overlay(torch.nn, SyncBatchNorm=_SyncBatchNorm))
    replace(trainer, "DistributedDataParallel", _DistributedDataParallel)


def _init_device(original: Callable, self) -> None:
    """Let RecBole choose the device of a single process; if that is the CPU, set up the process group for it."""
    values = self.final_config_dict
    if "local_rank" not in values:
        return original(self)
    rank = values.pop("local_rank")
    original(self)
    values["local_rank"] = rank
    if values["device"].type != "cpu":
        return original(self)
    torch.distributed.init_process_group(
        backend="gloo",
        rank=rank + values["offset"],
        world_size=values["world_size"],
        init_method=f"tcp://{values['ip']}:{values['port']}",
    )
    values["single_spec"] = False
    if rank != 0:
        values.update(state="error", show_progress=False, verbose=False)
    return None


def _is_on_cpu(module: torch.nn.Module) -> bool:
    return all(tensor.device.type == "cpu" for tensor in chain(module.parameters(), module.buffers()))


class _DistributedDataParallel(torch.nn.parallel.DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, device_ids: list | None = None, **kwargs):
        super().__init__(module, device_ids=None if _is_on_cpu(module) else device_ids, **kwargs)


class _SyncBatchNorm(torch.nn.SyncBatchNorm):
    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group=None) -> torch.nn.Module:
        if _is_on_cpu(module):
            return module
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)


def one_checkpoint() -> None:
    """Let all processes of a run load the checkpoint that the first one writes.

    Each process names the file after the second in which it builds its trainer. If these seconds differ, the others
    look for a file that nobody writes; besides, they may read the file before it is complete.

    No upstream issue known.
    """
    trainer = importlib.import_module("recbole.trainer.trainer").Trainer
    wrap(trainer, "__init__", _share_checkpoint_name)
    wrap(trainer, "_save_checkpoint", _wait_for_checkpoint)


def _share_checkpoint_name(original: Callable, self, config, model) -> None:
    original(self, config, model)
    if not config["single_spec"]:
        name = [self.saved_model_file]
        torch.distributed.broadcast_object_list(name, src=0)
        self.saved_model_file = name[0]


def _wait_for_checkpoint(original: Callable, self, *args, **kwargs) -> None:
    original(self, *args, **kwargs)
    if not self.config["single_spec"]:
        # all processes get here after the same epochs, because they share the validation score that decides
        torch.distributed.barrier()
        if self.config["local_rank"] != 0:
            # on another machine's disk the file is missing, and this process cannot load it anyway
            with contextlib.suppress(FileNotFoundError):
                remember_checkpoint(kwargs.get("saved_model_file", self.saved_model_file))


def patched_children() -> None:
    """Patch RecBole in the processes that ``recbole.quick_start.run(nproc=...)`` starts, too.

    A new process imports what it needs to call RecBole's ``run_recboles``, which is RecBole alone. A function of this
    package in its place makes the process import this package first.
    """
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    if quick_start.run_recboles is not run_recboles:
        vars(run_recboles)["original"] = quick_start.run_recboles
    replace(quick_start, "run_recboles", run_recboles)
    replace(sys.modules["recbole.quick_start"], "run_recboles", run_recboles)


def run_recboles(rank: int, *args) -> None:
    """RecBole's function of the same name; a new process finds it by the name of this module."""
    vars(run_recboles)["original"](rank, *args)


def shared_folders() -> None:
    """Let processes that start together create the same folder.

    ``ensure_dir`` checks whether a folder exists and then creates it; of two processes, the slower one fails.

    No upstream issue known.
    """
    for name in ("utils.utils", "utils", "utils.logger", "trainer.trainer", "data.utils", "data.dataset.dataset"):
        module = importlib.import_module(f"recbole.{name}")
        if hasattr(module, "ensure_dir"):
            replace(module, "ensure_dir", _ensure_dir)


def _ensure_dir(dir_path: str | os.PathLike) -> None:
    """Create the folder and its parents unless they exist."""
    os.makedirs(dir_path, exist_ok=True)


# what a collector holds of each evaluated sample, in one row or several
_COLLECTED = ("rec.topk", "rec.meanrank", "rec.items", "rec.score", "data.label")


def joint_evaluation() -> None:
    """Let several processes arrive at the scores that one process would.

    Each process ranks for its share of the users, which is filled up with users of other shares to a common size.
    RecBole then averages the rounded scores of the shares, weighted by a number of batches that it takes for one of
    users. Here, all processes receive what all have collected, each user once, before anything is computed from it.

    No upstream issue known.
    """
    wrap(importlib.import_module("recbole.trainer.trainer").Trainer, "evaluate", _evaluate_together)
    collector = importlib.import_module("recbole.evaluator.collector").Collector
    wrap(collector, "get_data_struct", _gather_data_struct)


def _evaluate_together(original: Callable, self, eval_data, *args, **kwargs):
    if not eval_data or self.config["single_spec"]:
        return original(self, eval_data, *args, **kwargs)
    self.eval_collector.total_samples = eval_data.sample_size
    try:
        return original(self, eval_data, *args, **kwargs)
    finally:
        del self.eval_collector.total_samples


def _gather_data_struct(original: Callable, self):
    struct = original(self)
    samples = getattr(self, "total_samples", None)
    if samples is None:
        return struct
    collected = {key: value for key, value in struct._data_dict.items() if key in _COLLECTED}
    parts: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, collected)
    for key in collected:
        rows = [part[key] for part in parts]
        if sum(map(len, rows)) - samples in range(len(rows)):
            # sample k is row k // W of process k % W; those past the last one only fill up the shares
            struct._data_dict[key] = torch.stack(rows, dim=1).flatten(0, 1)[:samples]
        else:  # several rows per sample
            struct._data_dict[key] = torch.cat(rows)
    return struct
