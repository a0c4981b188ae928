"""What makes a training step wait for its device."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Records the operations that would make the CPU wait for a GPU, by name, in ``seen``.

    They are those that read a value, and those whose result has a size that depends on values.
    """

    _names = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        # indexing with a mask has to find the positions that are set
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in self._names or any(x is not None and x.dtype == torch.bool for x in indices):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))
