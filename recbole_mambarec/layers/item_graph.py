"""An item graph that follows what a model learns and is saved with it."""

from __future__ import annotations

import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.neighbours import Neighbours, knn_graph
from recbole_mambarec.data.graphs.sparse import SparseGraph, weighted_sum
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.value_checks import check_choice, check_share

GRAPHS = ("refined", "raw", "mix")


class ItemGraph(nn.Module):
    """Cosine top-k of each item without the item itself, ``s_ij / sqrt(d_i d_j)`` with ``d`` the row sums.

    ``raw`` is a graph over the raw features, built once; ``refined`` one over representations that the model learns,
    searched anew by :meth:`refresh`; ``mix`` a weighted sum of the two. Between two refreshes the graph is constant.
    The refined neighbours are in the state dict, as the data cannot bring them back: a restored model has the graph
    that belongs to its weights. Before the first refresh (``found`` is False) there is no graph to propagate over.

    Args:
        data: the training data.
        k: neighbours per item.
        kind: ``refined``, ``raw`` or ``mix``.
        refined_weight: weight of the refined graph in ``mix``; the raw one has the rest.
        image_weight: weight of modality ``image`` in the raw graph (:meth:`TrainingData.mixed_item_graph`).

    Raises:
        UserError: unknown ``kind``, or a weight outside [0, 1].
    """

    indices: Tensor
    cosines: Tensor

    def __init__(
        self, data: TrainingData, k: int, kind: str = "mix", refined_weight: float = 0.1, image_weight: float = 0.1
    ) -> None:
        super().__init__()
        self.learns = check_choice("ii_graph", kind, GRAPHS) != "raw"
        self.data, self.k = data, min(k, data.n_items - 1)
        self.refined_weight = check_share("ii_refined_weight", refined_weight)
        self.raw: SparseGraph | None = None
        if kind != "refined":
            self.raw = data.mixed_item_graph(k, image_weight, weighting="cosine", loops=False)
        self.found = not self.learns
        # one module from the start, whose entries change: RecBole counts operations of the modules there before a pass
        self.graph = SparseGraph(sp.csr_array((data.n_items, data.n_items))) if self.learns else self.raw
        if self.learns:
            shape = (data.n_items, self.k)
            self.register_buffer("indices", torch.full(shape, -1, dtype=torch.int32))
            self.register_buffer("cosines", torch.zeros(shape))

    @torch.no_grad()
    def refresh(self, learnt: Tensor) -> None:
        """Search the neighbours in ``learnt``, ``(n_items, width)``, in row blocks; does nothing for a raw graph."""
        if self.learns:
            found = self.data.neighbours_among(learnt, self.k + 1).without_self()
            self.indices.copy_(torch.from_numpy(found.indices))
            self.cosines.copy_(torch.from_numpy(found.cosines))
            self._build()

    def _build(self) -> None:
        refined = knn_graph(Neighbours(self.indices.cpu().numpy(), self.cosines.cpu().numpy()))
        if self.raw is not None:
            refined = weighted_sum([self.raw, refined], [1.0 - self.refined_weight, self.refined_weight])
        self.graph.replace(refined.to(self.indices.device))
        self.found = True

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.learns and (self.indices >= 0).any():
            self._build()
        elif self.learns:
            # the state of a model that had never searched: the present graph does not belong to these weights
            self.found = False

    def propagate(self, x: Tensor) -> Tensor:
        """The graph times ``x``, ``(n_items, d)`` -> the same shape; no gradient reaches the graph.

        Raises:
            ValueError: there has been no refresh yet.
        """
        if not self.found:
            raise ValueError("the item graph has not been searched: refresh it first")
        return self.graph.propagate(x)
