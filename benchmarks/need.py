"""What arithmetic needs at the speeds at which a machine multiplies matrices and moves numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# allocating, filling, copying and joining arrays is no arithmetic, nor is reading a value
_NO_ARITHMETIC = (
    *("_local_scalar", "_record_function", "_sparse_csr", "_to_copy", "_unsafe_view", "arange", "block_diag", "cat"),
    *("clone", "constant_pad", "copy_", "diagonal_backward", "empty", "fill_", "flip", "full", "new_", "ones"),
    *("repeat", "scalar_tensor", "select_backward", "slice_backward", "sparse_", "squeeze_", "stack", "zero"),
)
_PICK_ROWS = frozenset(["index", "index_select", "embedding", "gather"])
# place of the rows among the arguments
_ADD_ROWS = {"index_put": 2, "index_put_": 2, "index_add": 3, "index_add_": 3, "embedding_dense_backward": 0}
# products of two matrices, or of stacks of them: place of the left factor among the arguments
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}
# parameter, gradient and two moments are read; all but the gradient are written
_ADAM_PASSES = 7


class Speeds(NamedTuple):
    """Floating-point operations per second of a matrix product, and bytes read or written per second."""

    product: float
    memory: float


def measure_speeds(side: int = 1024, numbers: int = 1 << 22, repeats: int = 9) -> Speeds:
    """Of this process's CPU time: a square product, and the sum of two arrays that no cache holds."""
    a, b, c = (torch.ones(side, side) for _ in range(3))
    x, y, z = (torch.ones(numbers) for _ in range(3))
    product = _fastest(lambda: torch.mm(a, b, out=c), repeats)
    addition = _fastest(lambda: torch.add(x, y, out=z), repeats)
    return Speeds(2 * side**3 / product, 3 * x.nbytes / addition)


def _fastest(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


class Need(TorchDispatchMode):
    """Adds up what the operations within a ``with`` block need; forward, backward and optimiser alike.

    A dense product needs the longer of its floating-point operations and of the passes over its operands and its
    result; a sparse one the passes over its entries, over one row of the dense operand per entry, and over the result;
    Adam seven passes over the parameters. Rows that are picked are read and written, those that are added up are read
    twice. Everything else reads its arguments and writes its results once. What only moves numbers counts as nothing.

    Attributes:
        work: name, floating-point operations of dense products and bytes of each operation of ATen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if not function.is_view and not name.startswith(_NO_ARITHMETIC):
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.work.append((name, *_work(name, args, inputs, result)))
        return result

    def seconds(self, speeds: Speeds) -> tuple[float, float]:
        """Of dense products, and of all else."""
        product = memory = 0.0
        for _, flops, traffic in self.work:
            needed = max(flops / speeds.product, traffic / speeds.memory)
            product, memory = (product + needed, memory) if flops else (product, memory + needed)
        return product, memory


def _work(name: str, args: tuple, inputs: list[Tensor], result: object) -> tuple[int, int]:
    """Floating-point operations and bytes of one operation."""
    outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
    if name == "_fused_adam_":
        return 0, _ADAM_PASSES * _bytes(args[0])
    if name in _PICK_ROWS:
        return 0, 2 * _bytes(outputs)
    if name in _ADD_ROWS:
        return 0, 3 * _bytes([args[_ADD_ROWS[name]]])
    if name in ("_embedding_bag", "_embedding_bag_forward_only"):
        weight, indices = args[:2]
        return 0, _bytes([indices, outputs[0]]) + indices.numel() * weight.shape[1] * weight.element_size()
    if name not in _PRODUCTS:
        return 0, _bytes(inputs) + _bytes(outputs)
    left, right = args[_PRODUCTS[name] :][:2]
    columns = right.shape[-1] if right.ndim > 1 else 1
    if left.layout is not torch.strided:
        # a value, and a column in CSR; RecBole's own models have 64-bit rows and columns
        indices = left.col_indices().element_size() if left.layout is torch.sparse_csr else 16
        entry = left.element_size() + indices
        return 0, left._nnz() * (entry + columns * right.element_size()) + _bytes(outputs)
    return 2 * left.numel() * columns, _bytes(inputs) + _bytes(outputs)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the numbers that are there; a dimension that is expanded repeats them."""
    return sum(
        x.element_size() * math.prod(size for size, stride in zip(x.shape, x.stride()) if stride) for x in tensors
    )
