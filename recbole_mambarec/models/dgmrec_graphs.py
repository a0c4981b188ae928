"""Item graphs of DGMRec: items without a modality stay by themselves until its features have been generated."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.neighbours import Neighbours, knn_graph
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.training import TrainingData


def observed_graph(data: TrainingData, modality: str, k: int, stand_ins: bool) -> SparseGraph:
    """:meth:`TrainingData.item_graph`, in which an item without the modality is linked to itself alone.

    Args:
        stand_ins: such items take places in the lists of others before they are left out of them, so that these have
            fewer than ``k`` neighbours.
    """
    lists = data.neighbours(modality, k, stand_ins)
    absent = ~data.present(modality)
    left_out = absent[:, None] | ((lists.indices >= 0) & absent[lists.indices])
    indices, cosines = np.where(left_out, -1, lists.indices), np.where(left_out, 0.0, lists.cosines)
    indices[absent, 0], cosines[absent, 0] = np.flatnonzero(absent), 1.0
    return knn_graph(Neighbours(indices, cosines))


class BlendedGraph(nn.Module):
    """An item graph in which the rows of some items follow what is learnt of them, and are saved with the model.

    Args:
        graph: at the start, ``(n_items, n_items)``.
        items: the items whose rows change, ascending, ``(n,)``.
        weight: of the new rows in a blend; the old ones have the rest.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, graph: SparseGraph, items: np.ndarray, weight: float) -> None:
        super().__init__()
        self.graph, self.items, self.weight = graph, items, weight
        self._store(graph.scipy()[items])

    def propagate(self, x: Tensor) -> Tensor:
        """The graph times ``x``, ``(n_items, d)`` -> the same shape."""
        return self.graph.propagate(x)

    def blend(self, lists: Neighbours) -> None:
        """Move the rows of the items towards those of :func:`knn_graph` over ``lists``."""
        fresh, old = knn_graph(lists).scipy()[self.items], self.graph.scipy()[self.items]
        self._replace(self.weight * fresh + (1.0 - self.weight) * old)

    def _replace(self, rows: sp.csr_array) -> None:
        self._store(rows)
        whole = self.graph.scipy()
        others = np.ones(whole.shape[0], dtype=np.float32)
        others[self.items] = 0.0
        n_rows = len(self.items)
        places = sp.csr_array((np.ones(n_rows, np.float32), (self.items, np.arange(n_rows))), (len(others), n_rows))
        self.graph.replace(SparseGraph(sp.diags_array(others) @ whole + places @ rows).to(self.values.device))

    def _store(self, rows: sp.csr_array) -> None:
        device = self.graph.forward_values.device
        for name, part in (("starts", rows.indptr), ("columns", rows.indices), ("values", rows.data)):
            self.register_buffer(name, torch.from_numpy(part.copy()).to(device))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # a blend has as many entries as both of its parts: their number is part of the state
        for name in ("starts", "columns", "values"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.values.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        parts = (self.values, self.columns, self.starts)
        self._replace(sp.csr_array(tuple(x.cpu().numpy() for x in parts), shape=(len(self.items), self.graph.shape[1])))
