"""A simulated GPU: tensors without values that know which device they are on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec_command.requirements import satisfies

#: whether this version of torch supports tensors without values well enough; of those tried, 2.4 and 2.6 do not
CAN_SIMULATE_GPU = satisfies(torch.__version__, ">=2.13")


@contextmanager
def simulated_gpu(model: nn.Module) -> Iterator[None]:
    """Move ``model`` to a simulated GPU, where tensors created within the context are placed as well.

    Operations compute shapes, types and devices, but no values. As on a GPU, an operation on tensors of two devices is
    refused (RuntimeError); reading a value is refused as well. torch cannot multiply sparse matrices without values;
    these products are replaced by their shapes, so there is no backward pass through the model. The model cannot be
    used afterwards.
    """
    # in a build without CUDA, autograd ends the process when it meets a tensor on such a device
    model.requires_grad_(False)
    with (
        torch.no_grad(),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        _WithoutDriver(),
        mock.patch("torch.sparse_csr_tensor", _SparseShape.of),
        mock.patch.object(TrainingData, "neighbours_among", _some_neighbours),
        warnings.catch_warnings(),
    ):
        # autocast warns that there is no GPU
        warnings.filterwarnings("ignore", message=".*CUDA is not available")
        model._apply(lambda tensor: on_simulated_gpu(tensor, mode))
        yield


def _some_neighbours(data: TrainingData, learnt: Tensor, k: int, *_: object) -> Neighbours:
    """As many neighbours as a search finds, which needs values."""
    shape = data.n_items, min(k, data.n_items)
    return Neighbours(np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32))


def on_simulated_gpu(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """``tensor`` without its values, on the simulated GPU."""
    return _on(mode.from_tensor(tensor), torch.device("cuda"))


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)


class _WithoutDriver(TorchFunctionMode):
    """Shapes of those operations for which torch calls the GPU's driver before it notices that there are no values."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            return self._picked(function, args)
        if function is Tensor.copy_:  # between devices, too
            return args[0]
        if function is F.batch_norm:
            self._check_one_device("a batch norm", args)
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))

    def _picked(self, function, args: tuple) -> Tensor | None:
        """``x[...]`` or its assignment; an index on the CPU may select on the GPU, but not the other way round."""
        device = args[0].device
        if device.type == "cpu":
            self._check_one_device("indexing", args)
        elif function is Tensor.__setitem__:
            self._check_one_device("an assignment", (args[0], args[2]))
        found = function(*tree_map_only(Tensor, lambda part: _on(part, torch.device("cpu")), args))
        return None if found is None else _on(found, device)

    @staticmethod
    def _check_one_device(what: str, args: tuple) -> None:
        devices = {str(part.device) for part in tree_leaves(args) if isinstance(part, Tensor) and part.ndim}
        if len(devices) > 1:
            raise RuntimeError(f"{what} has tensors on two devices: {', '.join(sorted(devices))}")


class _SparseShape(NamedTuple):
    """Shape and device of a sparse matrix, which are all that a product without values needs."""

    shape: tuple[int, int]
    device: torch.device

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, size=None, **_: object) -> _SparseShape:
        devices = {part.device for part in (rows, columns, values)}
        if len(devices) > 1:
            raise RuntimeError(f"a sparse matrix has its parts on {len(devices)} devices: {sorted(map(str, devices))}")
        return cls(tuple(size), values.device)

    def __matmul__(self, x: Tensor) -> Tensor:
        if x.device != self.device:
            raise RuntimeError(f"a sparse matrix on {self.device} is multiplied with a tensor on {x.device}")
        if x.shape[0] != self.shape[1]:
            raise RuntimeError(f"a sparse matrix of shape {self.shape} is multiplied with one of {tuple(x.shape)}")
        return x.new_empty(self.shape[0], *x.shape[1:])
