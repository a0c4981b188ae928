"""The discriminator of MMSSL's GAN."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleList

_EPSILON = 1e-5


class _Norm(NamedTuple):
    """What the way back through a hidden layer needs: normalised values, factors of the columns, dropout's mask."""

    unit: Tensor
    scale: Tensor
    mask: Tensor


class Discriminator(nn.Module):
    """Scores from 0 to 100 of rows of item similarities, ``(n, n_items)`` -> ``(n,)``.

    Three linear maps, to a quarter and an eighth of the width and to one value, with a batch norm after the first two
    and no non-linearity before the final sigmoid, as in the published code of MMSSL (whose leaky ReLU has slope 1). The
    norms always take the statistics of the given rows. Its weights grow with the square of the catalogue.

    Args:
        width: number of items.
        dropout: rates after the two hidden layers.
    """

    def __init__(self, width: int, dropout: Sequence[float]) -> None:
        super().__init__()
        widths = width, max(width // 4, 1), max(width // 8, 1), 1
        self.linear: ModuleList[nn.Linear] = ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
        for layer in self.linear:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.weight = nn.ParameterList([torch.ones(n) for n in widths[1:3]])
        self.bias = nn.ParameterList([torch.zeros(n) for n in widths[1:3]])
        self.dropout = tuple(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores of the rows."""
        return self.scores(self.first(rows))

    def first(self, rows: Tensor) -> Tensor:
        """The first map, ``(n, n_items)`` -> ``(n, n_items / 4)``: where the time goes.

        It is affine: mixtures of rows have the mixtures of the results.
        """
        return self.linear[0](rows)

    def scores(self, first: Tensor) -> Tensor:
        """Scores of rows after the :meth:`first` map, ``(n,)``."""
        return 100.0 * self._layers(first)[0].sigmoid()

    def _layers(self, x: Tensor) -> tuple[Tensor, list[_Norm]]:
        """Logits ``(n,)`` of rows after the first map, and the hidden layers."""
        hidden = []
        for linear, weight, bias, rate in zip(self.linear[1:], self.weight, self.bias, self.dropout):
            centred = x - x.mean(dim=0)
            scale = (centred.square().mean(dim=0) + _EPSILON).rsqrt()
            unit = centred * scale
            mask = F.dropout(torch.ones_like(unit), rate, self.training)
            hidden.append(_Norm(unit, scale, mask))
            x = linear((unit * weight + bias) * mask)
        return x.squeeze(1), hidden

    def slopes(self, first: Tensor) -> Tensor:
        """Length of the gradient of the sum of all scores with respect to each row, ``(n,)``.

        It is written out, so that a loss made of it takes one backward pass.

        Args:
            first: the rows after the :meth:`first` map.
        """
        logits, hidden = self._layers(first)
        share = logits.sigmoid()
        gradient = (100.0 * share * (1 - share))[:, None] * self.linear[-1].weight
        for layer in reversed(range(len(hidden))):
            unit, scale, mask = hidden[layer]
            gradient = gradient * mask * self.weight[layer]
            gradient = scale * (gradient - gradient.mean(dim=0) - unit * (gradient * unit).mean(dim=0))
            gradient = gradient @ self.linear[layer].weight
        return gradient.norm(dim=1)
