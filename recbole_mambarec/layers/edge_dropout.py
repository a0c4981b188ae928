"""A graph whose entries are dropped at random, each direction of an edge by itself."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import Csr, Propagate, SparseGraph


class EdgeDropout(nn.Module):
    """Draws entries of a fixed graph; those that stay are divided by the share that stays (SELFCFED_LGN, DiffMM).

    Args:
        graph: the graph whose entries are drawn.
    """

    rows: Tensor
    columns: Tensor
    places: Tensor

    def __init__(self, graph: SparseGraph) -> None:
        super().__init__()
        self.graph = graph
        matrix = graph.scipy()
        places = sp.csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape).T.tocsr()
        places.sort_indices()
        self.register_buffer("columns", torch.from_numpy(places.indices.astype(np.int32)), persistent=False)
        self.register_buffer("rows", torch.from_numpy(places.indptr.astype(np.int32)), persistent=False)
        # where the entries of the transpose stand in the graph
        self.register_buffer("places", torch.from_numpy(places.data.astype(np.int64)), persistent=False)

    def draw(self, rate: float | Tensor) -> DrawnGraph:
        """A fresh draw from torch's generator, at a ``rate`` in [0, 1)."""
        drawn = torch.rand(self.graph.n_edges, device=self.places.device)
        kept = torch.floor(1.0 - rate + drawn)
        return DrawnGraph(self, self.graph.forward_values * kept / (1.0 - rate))


class DrawnGraph:
    """What :meth:`EdgeDropout.draw` has kept; entries that were dropped are stored as zeros."""

    def __init__(self, owner: EdgeDropout, values: Tensor) -> None:
        self.owner, self.values = owner, values

    def entries(self, transposed: bool = False) -> Csr:
        """Entries of the matrix, or of its transpose."""
        owner, graph = self.owner, self.owner.graph
        if transposed:
            return Csr(owner.rows, owner.columns, self.values[owner.places], graph.shape[::-1])
        return Csr(graph.forward_rows, graph.forward_columns, self.values, graph.shape)

    def propagate(self, x: Tensor) -> Tensor:
        """Matrix times ``x``: ``(columns, d)`` -> ``(rows, d)`` float32, differentiable in ``x``."""
        return Propagate.apply(x.float(), self)
