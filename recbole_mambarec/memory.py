"""The memory that a run will need, estimated before it starts, and the memory that is free.

The estimate covers what grows with the data: features, arrays with a row per node, per edge or per row of a batch, and
the scores of a block of users. How many such arrays a model's step holds is measured (``python -m benchmarks.memory``)
and stated in the model's class as :class:`StepMemory`. Nothing grows with the square of the batch: contrastive losses
and kernels compare its rows in blocks (:mod:`~recbole_mambarec.layers.losses`). results/memory.md compares estimates
with the peaks of whole runs.
"""

from __future__ import annotations

import math
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from recbole_mambarec.errors import UserError

_FLOAT = 4
# bytes per training interaction, in RAM or on the device: both directions of the graphs, indices and values
_EDGE_BYTES = 48
# bytes that libraries allocate in the first step
_LIBRARIES = 90 << 20
# share by which memory exceeds the arrays that are allocated and freed: the C library can seldom place an aligned array
# where one of the same size has been freed (results/memory.md)
_OVERHEAD = 0.4
# share of the estimate that a setting must save to be suggested
_WORTH = 0.05


class StepMemory(NamedTuple):
    """Number of float32 arrays of width ``embedding_size`` that a model holds at the peak of a training step.

    This includes parameters, gradients, the optimizer's moments and the copy of the best epoch. Except for ``picked``,
    a pair has the number of arrays that there always are, and the number for each modality.

    Attributes:
        users, items, edges, batch: arrays with a row per user, per item, per training interaction, per pair of a batch.
        tables: copies of a trainable feature table, of its own width: the table, gradient, two moments, best epoch, and
            what the model adds.
        picked: rows of raw features, of their own width, per pair of a batch, if features are (frozen, trainable); 0 if
            a model projects the whole table and picks rows of the result.
    """

    users: tuple[float, float] = (20.0, 20.0)
    items: tuple[float, float] = (20.0, 30.0)
    edges: tuple[float, float] = (0.0, 0.0)
    batch: tuple[float, float] = (20.0, 20.0)
    tables: float = 5.0
    picked: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Need:
    """Bytes that a run will need in addition to what the process holds, by purpose."""

    features: int
    step: int
    evaluation: int
    graphs: int

    @property
    def total(self) -> int:
        """The sum: memory that a step has freed seldom has room for the scores."""
        return _LIBRARIES + self.features + self.graphs + int((self.step + self.evaluation) * (1 + _OVERHEAD))


def need(use: StepMemory, config, data) -> Need:
    """The memory that a model needs with a configuration on some data.

    Args:
        use: of the model.
        config: configuration.
        data: :class:`~recbole_mambarec.data.training.TrainingData`.
    """
    d, on_gpu, frozen = config["embedding_size"], config["device"].type == "cuda", config["freeze_features"]
    pairs, features, width = len(data.users), 0, 0
    for modality in data.modalities:
        shape = data.features(modality).shape
        table = shape[0] * shape[1] * _FLOAT
        width += shape[1]
        if not frozen:
            # the best epoch is kept in RAM
            features += (use.tables - on_gpu) * table
        elif data.in_memory(modality) or on_gpu:
            features += table
        if config["enable_amp"]:
            features += table / 2
        if config["modality_dropout"]:
            # the table with the rows of a step replaced
            features += table
    batch = batch_rows(config, pairs)
    counts = ((use.users, data.n_users), (use.items, data.n_items), (use.edges, pairs), (use.batch, batch))
    rows = sum((always + len(data.modalities) * each) * count for (always, each), count in counts)
    return Need(
        features=int(features),
        step=int((rows * d + use.picked[not frozen] * batch * width) * _FLOAT),
        # final embeddings, without and with the padding row, and scores
        evaluation=(2 * (data.n_users + data.n_items) * d + max(_block(config, data, p) for p in ("valid", "test")))
        * _FLOAT,
        graphs=_EDGE_BYTES * pairs,
    )


def batch_rows(config, pairs: int) -> int:
    """Pairs in the largest batch: as configured, or all pairs of an epoch if these are fewer."""
    negatives = (config["train_neg_sample_args"] or {}).get("sample_num")
    return min(config["train_batch_size"], pairs * (negatives if isinstance(negatives, int) else 1))


def _block(config, data, phase: str) -> int:
    """Number of values held for the largest block of users in the phase ``valid`` or ``test``.

    ``eval_batch_size`` is a number of pairs, and a block has at least one user. The scores of a block are held twice,
    and those of the previous block, if any, once.
    """
    negatives = (config[f"{phase}_neg_sample_args"] or {}).get("sample_num")
    candidates = negatives + 1 if isinstance(negatives, int) else data.n_items
    users = min(max(config["eval_batch_size"] // candidates, 1), data.n_users)
    scores = users * data.n_items * (2 if users == data.n_users else 3)
    # sampled candidates are scored pair by pair, with an embedding of each side, and their products
    return scores + (3 * config["embedding_size"] * users * candidates if isinstance(negatives, int) else 0)


def check(
    model: str, use: StepMemory, config, data, changed_use: Callable[[Mapping], StepMemory] | None = None
) -> None:
    """Refuse a run that does not fit in memory.

    Args:
        changed_use: the model's memory under a changed configuration, where it depends on that.

    Raises:
        UserError: the estimate exceeds ``memory_limit`` or, if that key is unset, the free memory.
    """
    limit = config["memory_limit"]
    if limit is not None and not (isinstance(limit, (int, float)) and not isinstance(limit, bool) and limit >= 0):
        raise UserError(f"memory_limit must be a number of GiB from 0, got {limit!r}")
    if limit == 0:
        return
    free, where = available(config["device"])
    if limit is not None:
        free, where = limit * 2**30, "memory_limit"
    wanted = need(use, config, data)
    if free is None or wanted.total <= free:
        return

    def total(changed: dict) -> int:
        mixed = ChainMap(changed, config)
        return need(changed_use(mixed) if changed_use else use, mixed, data).total

    advice = _advice(total, config, wanted, free)
    raise UserError(
        f"{model} on {data.n_users} users and {data.n_items} items will need about {_gib(wanted.total)} more "
        f"(features {_gib(wanted.features)}, training step {_gib(wanted.step)}, evaluation {_gib(wanted.evaluation)}) "
        f"but {_gib(free)} are available ({where}): {advice}; memory_limit=0 tries it anyway"
    )


def _advice(total: Callable[[dict], int], config, wanted: Need, free: float) -> str:
    """Settings to change: those of which each is enough, or if there are none, those that help.

    Args:
        total: the estimate with changed settings.
        wanted: what the run needs.
        free: available bytes.
    """
    # setting -> estimate with it
    options = {}
    if not config["freeze_features"]:
        options["freeze_features=True"] = total({"freeze_features": True})
    elif config["device"].type == "cpu":
        options["a smaller feature_memory, which leaves features on disk"] = wanted.total - wanted.features
    if config["solver"] == "dense":
        options["solver=sparse"] = total({"solver": "sparse"})
    for key, smallest in (("train_batch_size", 1), ("eval_batch_size", 1), ("embedding_size", 16)):
        left, value = wanted.total, config[key]
        while left > free and value > smallest:
            value //= 2
            left = total({key: value})
        options[f"{key}={value}" if left <= free else f"a smaller {key}"] = left
    enough = [option for option, left in options.items() if left <= free]
    if enough:
        return f"use {', or '.join(enough)}"
    helpful = [option for option, left in options.items() if left < wanted.total * (1 - _WORTH)]
    if not helpful:
        return "use a machine with more memory"
    return f"no single setting is enough; a combination may be: {', '.join(helpful)}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2g} GiB" if count < 100 * 2**30 else f"{count / 2**30:.0f} GiB"


def available(device: torch.device) -> tuple[float | None, str]:
    """Bytes that can still be allocated on ``device`` (None if the system does not say), and what limits them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], f"free on {device}"
    kibibytes = [line.split()[1] for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable:")]
    limits = [(int(number) * 1024, "free memory of the machine") for number in kibibytes]
    if not limits:  # another system than Linux
        import psutil

        limits = [(psutil.virtual_memory().available, "free memory of the machine")]
    limits += [(free, "limit of the control group") for free in _control_groups()]
    return min(limits, default=(None, "unknown"))


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left below the limit of each control group (version 1 or 2) that this process is in."""
    left = []
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # limits of the groups above count, too; in a container, the path is the host's, and only base exists
        folder = base / path.strip().lstrip("/")
        for group in (folder, *folder.parents):
            left += _left(group, *names)
            if group == base:
                break
    return left


def _left(group: Path, limit_name: str, usage_name: str, cache_name: str) -> list[int]:
    limit, usage = ("".join(_lines(group / name)[:1]) for name in (limit_name, usage_name))
    # without a limit, the file has a word or a number beyond any machine's memory
    if not (limit.isdigit() and usage.isdigit()) or int(limit) >= 2**60:
        return []
    cache = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith(f"{cache_name} ")]
    return [int(limit) - int(usage) + int(cache[0] if cache else 0)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def peak_gib(device: torch.device | None = None) -> float:
    """Peak memory so far, in GiB: resident memory of the process, or what torch has reserved on a CUDA ``device``.

    Linux's own count is preferred, because ``getrusage`` includes what the parent held when it started this process. On
    Windows it is the peak working set.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def free_gib() -> float:
    """RAM that can still be allocated, in GiB; infinite if the system does not say."""
    free, _ = available(torch.device("cpu"))
    return math.inf if free is None else free / 2**30


def total_gib() -> float:
    """RAM of the machine, in GiB."""
    import psutil

    return psutil.virtual_memory().total / 2**30


def held_gib(process: int) -> float:
    """Current resident memory of a process, in GiB; 0 if it has ended."""
    import psutil

    try:
        return psutil.Process(process).memory_info().rss / 2**30
    except psutil.Error:
        return 0.0
