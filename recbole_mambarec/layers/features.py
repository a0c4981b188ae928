"""Raw item features inside a model: in memory, or on disk and read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from recbole_mambarec.data.rows import BLOCK_VALUES, ItemRows, Rows, SideBySide, blocks


class FeatureTable(nn.Module):
    """Raw item features of one modality.

    Args:
        features: float32, shape ``(n_items, dim)``, an array or rows that stay on disk.
        frozen: keep them as they are and do not save them (they are rebuilt from the data); otherwise they are a
            parameter that training changes. On the CPU, frozen rows on disk are never in memory as a whole; a GPU holds
            all of them, in the type in which they are stored.
        dropout: share of the items whose rows :meth:`draw` replaces.
        widths: columns of each modality where several stand side by side, each of which is replaced by itself.
    """

    stand_in: Tensor

    def __init__(self, features: Rows, frozen: bool, dropout: float = 0.0, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = tuple(features.shape)
        self.dropout, self.widths = dropout, list(widths or self.shape[1:])
        self._dropped: Tensor | None = None
        if dropout > 0:
            total = sum(rows.sum(axis=0, dtype=np.float64) for _, rows in blocks(features))
            mean = torch.from_numpy(np.asarray(total / max(len(features), 1), dtype=np.float32))
            self.register_buffer("stand_in", mean, persistent=False)
        self._on_disk: ItemRows | SideBySide | None = None
        if frozen and not isinstance(features, np.ndarray):
            self._on_disk = features
            return
        # a copy, because training must not write into the dataset's array
        weight = torch.empty(self.shape, dtype=torch.float32)
        for place, rows in blocks(features):
            weight[place] = torch.from_numpy(rows)
        if frozen:
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = nn.Parameter(weight)

    def draw(self) -> None:
        """Draw the items whose rows are replaced by the mean of all rows until :meth:`restore` is called."""
        shape = self.shape[0], len(self.widths)
        self._dropped = torch.rand(shape, device=self.stand_in.device) < self.dropout

    def restore(self) -> None:
        """End what :meth:`draw` has begun."""
        self._dropped = None

    def forward(self) -> Tensor | FeatureBlocks:
        """The table, float32 ``(n_items, dim)``, or what stands for it."""
        table = self._table()
        if self._dropped is None:
            return table
        # the backward pass may read blocks again after the next draw: they keep this one
        dropped, stand_in, widths = self._dropped, self.stand_in, self.widths

        def replaced(index: slice | Tensor, rows: Tensor) -> Tensor:
            parts = [part.expand(-1, width) for part, width in zip(dropped[index].split(1, dim=1), widths)]
            return torch.where(torch.cat(parts, dim=1), stand_in, rows)

        if isinstance(table, FeatureBlocks):
            return FeatureBlocks(table.shape, table.device, lambda index: replaced(index, table[index]))
        return replaced(slice(None), table)

    def _table(self) -> Tensor | FeatureBlocks:
        if self._on_disk is not None:
            return FeatureBlocks(self.shape, torch.device("cpu"), self._read)
        if self.weight.dtype != torch.float32 and not isinstance(self.weight, nn.Parameter):
            return FeatureBlocks(self.shape, self.weight.device, lambda index: self.weight[index].float())
        return self.weight

    def _read(self, index: slice | Tensor) -> Tensor:
        return torch.from_numpy(self._on_disk[index if isinstance(index, slice) else index.numpy()])

    def _apply(self, fn, recurse: bool = True):
        device = fn(torch.empty(0)).device
        if self._on_disk is not None and device.type != "cpu":
            half = self._on_disk.stored_dtype == np.float16
            weight = torch.empty(self.shape, dtype=torch.float16 if half else torch.float32, device=device)
            for place, rows in blocks(self._on_disk):
                weight[place] = torch.from_numpy(rows).to(weight)
            self._on_disk = None
            self.register_buffer("weight", weight, persistent=False)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Shape and state for ``print(model)``."""
        if self._on_disk is not None:
            kind = "frozen, on disk"
        else:
            kind = "trainable" if isinstance(self.weight, nn.Parameter) else "frozen"
        return f"{self.shape[0]} x {self.shape[1]}, {kind}"


class FeatureBlocks:
    """Stands for a float32 tensor ``(n, dim)`` without gradient whose rows are read when they are needed.

    ``F.linear`` (hence ``nn.Linear``), ``@`` and ``F.normalize`` along rows go through it in blocks, and rows can be
    indexed. Any other torch function gets the whole tensor, which is correct but takes its full size in memory.
    https://docs.pytorch.org/docs/stable/notes/extending.html#extending-torch-with-a-tensor-like-type

    Args:
        shape: ``(n, dim)``.
        device: device of the blocks.
        read: slice or index tensor -> those rows.
    """

    requires_grad = False
    dtype = torch.float32
    ndim = 2

    def __init__(self, shape: tuple[int, int], device: torch.device, read: Callable[[slice | Tensor], Tensor]) -> None:
        self.shape, self.device, self._read = shape, device, read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self._read(index)

    def __matmul__(self, weight: Tensor) -> Tensor:
        return _BlockProduct.apply(weight.T, None, self)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(slice, its rows) from the first row to the last."""
        return blocks(self, BLOCK_VALUES)

    def dense(self) -> Tensor:
        """The whole tensor."""
        return self._read(slice(0, len(self)))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.linear and isinstance(args[0], cls):
            return _linear(*args, **kwargs)
        if function is F.normalize and isinstance(args[0], cls) and kwargs.get("dim", 1) == 1:
            return args[0]._normalized(*args[1:], **kwargs)
        args, kwargs = tree_map(_whole, (args, kwargs))
        return function(*args, **kwargs)

    def _normalized(self, *args, **kwargs) -> FeatureBlocks:
        return FeatureBlocks(self.shape, self.device, lambda index: F.normalize(self._read(index), *args, **kwargs))


def _whole(value: object) -> object:
    return value.dense() if isinstance(value, FeatureBlocks) else value


def _linear(table: FeatureBlocks, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _BlockProduct.apply(weight, bias, table)


class _BlockProduct(torch.autograd.Function):
    """``F.linear`` of a table that is read in blocks: once in the forward and once in the backward pass."""

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor | None, table: FeatureBlocks) -> Tensor:
        ctx.table = table
        parts = [F.linear(rows, weight, bias) for _, rows in table.blocks()]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_weight = gradient.new_zeros(gradient.shape[1], ctx.table.shape[1], dtype=torch.float32)
            for place, rows in ctx.table.blocks():
                grad_weight += gradient[place].T @ rows.to(gradient.dtype)
        if ctx.needs_input_grad[1]:
            grad_bias = gradient.sum(dim=0, dtype=torch.float32)
        return grad_weight, grad_bias, None
