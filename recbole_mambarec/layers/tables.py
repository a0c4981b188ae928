"""Tables of free numbers per user or node."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DrawnTable(nn.Module):
    """A table ``(rows, width)``, Xavier-normal, that is trained or stays as it was drawn; it is saved in either case.

    Args:
        trained: make it a parameter; otherwise no optimiser sees it.
    """

    def __init__(self, rows: int, width: int, trained: bool) -> None:
        super().__init__()
        values = nn.init.xavier_normal_(torch.empty(rows, width))
        if trained:
            self.weight = nn.Parameter(values)
        else:
            self.register_buffer("weight", values)

    def forward(self) -> Tensor:
        """The table, ``(rows, width)``."""
        return self.weight
