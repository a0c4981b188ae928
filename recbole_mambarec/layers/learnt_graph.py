"""Item graphs whose weights carry a gradient: the cosines of what a model makes of its items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.layers.unit import unit_rows


class WeightedNeighbours:
    """A graph as lists of sending items with a weight each, both ``(n_items, K)``; a gradient reaches the weights.

    Memory is linear in the items: neither the dense matrix nor its gradient exists.
    """

    def __init__(self, indices: Tensor, weights: Tensor) -> None:
        self.indices, self.weights = indices, weights

    def propagate(self, x: Tensor) -> Tensor:
        """Weighted sums of the rows of ``x``, ``(n_items, d)``, float32, differentiable in both."""
        return F.embedding_bag(self.indices, x.float(), mode="sum", per_sample_weights=self.weights)

    def detach(self) -> WeightedNeighbours:
        """The same graph without gradient."""
        return WeightedNeighbours(self.indices, self.weights.detach())

    def scipy(self) -> sp.csr_array:
        """A copy as a scipy CSR array, float32."""
        columns, values = self.indices.cpu().numpy(), self.weights.detach().cpu().numpy()
        rows = np.repeat(np.arange(len(columns)), columns.shape[1])
        return sp.coo_array((values.ravel(), (rows, columns.ravel())), shape=(len(columns),) * 2).tocsr()


def kept_cosines(features: Tensor, neighbours: Neighbours) -> WeightedNeighbours:
    """The neighbours found in ``features``, weighed with their cosines there.

    Where an item has fewer neighbours it stands there itself with 0.
    """
    indices = torch.from_numpy(neighbours.indices).to(features.device, torch.int64)
    missing = indices < 0
    itself = torch.arange(len(indices), device=features.device)[:, None]
    indices = torch.where(missing, itself, indices)
    unit = unit_rows(features)
    # one row of each item with the rows of its list: (I, k, d) would be k times the features
    cosines = torch.stack([(unit * unit[indices[:, j]]).sum(dim=1) for j in range(indices.shape[1])], dim=1)
    return WeightedNeighbours(indices, cosines.masked_fill(missing, 0.0))


def symmetric_sum(parts: Sequence[WeightedNeighbours], weights: Tensor, share: float) -> WeightedNeighbours:
    """``share * D^-1/2 (sum_m weights[m] part_m) D^-1/2`` with D the row sums.

    A row whose sum is not positive has no usable neighbours and gets zeros.

    Args:
        parts: the M graphs.
        weights: one per part, ``(M,)``.
        share: factor on the result.
    """
    indices = torch.cat([part.indices for part in parts], dim=1)
    values = torch.cat([weight * part.weights for weight, part in zip(weights, parts)], dim=1)
    degrees = values.sum(dim=1)
    usable = degrees > 0
    scale = torch.where(usable, degrees, 1.0).rsqrt() * usable
    return WeightedNeighbours(indices, share * values * scale[:, None] * scale[indices])
