"""What a run will need, before it starts, and what there is.

The estimate counts what grows with the data: features, arrays of all nodes, of all edges and of the rows of a batch,
scores of a block of users. How many such arrays a model's step holds is measured (``python -m benchmarks.memory``) and
written down with the model as :class:`StepMemory`. Nothing grows with the square of the batch: contrasts and kernels
compare its rows in blocks (:mod:`~recbole_mambarec.layers.losses`). Estimates beside the peaks of whole runs are in
results/memory.md.
"""

from __future__ import annotations

import math
import sys
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from recbole_mambarec.errors import UserError

_FLOAT = 4
# what is held per training interaction in RAM or on the device: both directions of the graphs, indices and values
_EDGE_BYTES = 48
# what libraries load with the first step, and what the process takes on top of arrays that come and go, as a share: the
# C library seldom finds room for an aligned array where one of the same size has been freed (results/memory.md)
_LIBRARIES, _OVERHEAD = 90 << 20, 0.4
# what an option must save to be worth naming, as a share of the estimate
_WORTH = 0.05


class StepMemory(NamedTuple):
    """Float32 arrays of width d that a model holds at the peak of a training step.

    Parameters, gradients, the optimizer's moments and the copy of the best epoch are among them. Pairs are (in any
    case, for each modality), but for ``picked``.

    Attributes:
        users, items, edges, batch: arrays of a row per user, per item, per training interaction, per pair of a batch.
        tables: copies of a trainable feature table, of its own width: itself, gradient, two moments, best epoch, and
            what the model adds.
        picked: rows of raw features, of their own width, that a step holds per pair of a batch; (frozen, trainable).
            0 where a model projects the whole table and picks rows of the result.
    """

    users: tuple[float, float] = (20.0, 20.0)
    items: tuple[float, float] = (20.0, 30.0)
    edges: tuple[float, float] = (0.0, 0.0)
    batch: tuple[float, float] = (20.0, 20.0)
    tables: float = 5.0
    picked: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Need:
    """Bytes that a run will need beyond what it has, by what they are for."""

    features: int
    step: int
    evaluation: int
    graphs: int

    @property
    def total(self) -> int:
        """All of them: what a step has freed seldom has room for the scores."""
        return _LIBRARIES + self.features + self.graphs + int((self.step + self.evaluation) * (1 + _OVERHEAD))


def need(use: StepMemory, config, data) -> Need:
    """What a model with this configuration needs on this data.

    Args:
        use: the model's.
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
    batch = _batch_rows(config, pairs)
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


def _batch_rows(config, pairs: int) -> int:
    """Pairs in the largest batch: as configured, or all of an epoch's where these are fewer."""
    negatives = (config["train_neg_sample_args"] or {}).get("sample_num")
    return min(config["train_batch_size"], pairs * (negatives if isinstance(negatives, int) else 1))


def _block(config, data, phase: str) -> int:
    """Numbers held for the largest block of users that is ranked in ``valid`` or ``test``.

    ``eval_batch_size`` counts pairs, and at least one user is ranked. A block's scores are held twice, and those of
    the block before once, where there are several.
    """
    negatives = (config[f"{phase}_neg_sample_args"] or {}).get("sample_num")
    candidates = negatives + 1 if isinstance(negatives, int) else data.n_items
    users = min(max(config["eval_batch_size"] // candidates, 1), data.n_users)
    scores = users * data.n_items * (2 if users == data.n_users else 3)
    # sampled candidates are scored pair by pair, with an embedding of each side, and their products
    return scores + (3 * config["embedding_size"] * users * candidates if isinstance(negatives, int) else 0)


def check(model: str, use: StepMemory, config, data) -> None:
    """Refuse a run that cannot fit.

    Raises:
        UserError: the estimate is above ``memory_limit``, or above what is free where that key is unset.
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
    advice = _advice(lambda changed: need(use, ChainMap(changed, config), data).total, config, wanted, free)
    raise UserError(
        f"{model} on {data.n_users} users and {data.n_items} items will need about {_gib(wanted.total)} more "
        f"(features {_gib(wanted.features)}, training step {_gib(wanted.step)}, evaluation {_gib(wanted.evaluation)}) "
        f"but {_gib(free)} are there ({where}): {advice}; memory_limit=0 tries all the same"
    )


def _advice(total: Callable[[dict], int], config, wanted: Need, free: float) -> str:
    """What to change: each setting that is enough alone; where none is, those that help.

    Args:
        total: estimate under changed settings.
        wanted: what the run needs.
        free: bytes that are there.
    """
    # setting -> what is left to need with it
    options = {}
    if not config["freeze_features"]:
        options["freeze_features=True"] = total({"freeze_features": True})
    elif config["device"].type == "cpu":
        options["a smaller feature_memory, which leaves features on disk"] = wanted.total - wanted.features
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
    return f"no one setting is enough; together may be: {', '.join(helpful)}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2g} GiB" if count < 100 * 2**30 else f"{count / 2**30:.0f} GiB"


def available(device: torch.device) -> tuple[int | None, str]:
    """(bytes that can still be allocated on ``device``, what limits them); None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], f"free on {device}"
    told = [line.split()[1] for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable:")]
    limits = [(int(kibibytes) * 1024, "free memory of the machine") for kibibytes in told]
    if not limits:  # another system than Linux
        import psutil

        limits = [(psutil.virtual_memory().available, "free memory of the machine")]
    limits += [(free, "limit of the control group") for free in _control_groups()]
    return min(limits, default=(None, "unknown"))


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What is left below the limit of each control group (of both versions) that this process is in."""
    left = []
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # a limit of any group above counts as well; in a container the path is that of the host, and only base exists
        folder = base / path.strip().lstrip("/")
        for group in (folder, *folder.parents):
            left += _left(group, *names)
            if group == base:
                break
    return left


def _left(group: Path, limit_name: str, usage_name: str, cache_name: str) -> list[int]:
    limit, usage = ("".join(_lines(group / name)[:1]) for name in (limit_name, usage_name))
    # a group without a limit says so by a word or by a number beyond any machine
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
    """Largest memory so far, in GiB: resident memory of the process, or what torch held on a CUDA ``device``.

    Linux's own count of this program is preferred: ``getrusage`` also reports what the parent held when it started us.
    Windows has the count as the peak working set.
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
    """RAM that can still be allocated, in GiB; infinite where the system does not tell."""
    free, _ = available(torch.device("cpu"))
    return math.inf if free is None else free / 2**30


def total_gib() -> float:
    """RAM of the machine, in GiB."""
    import psutil

    return psutil.virtual_memory().total / 2**30


def held_gib(process: int) -> float:
    """Resident memory of a process at the moment, in GiB; 0 for one that has ended."""
    import psutil

    try:
        return psutil.Process(process).memory_info().rss / 2**30
    except psutil.Error:
        return 0.0
