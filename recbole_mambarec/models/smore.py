"""SMORE: modalities filtered and multiplied in the frequency domain, on MGCN's graphs and loss."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.propagation import item_view
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.views import TwoViewRecommender, TwoViews, UnfusedViews


@dataclass(frozen=True)
class GatedViews(UnfusedViews):
    """The views, and a dropout mask for the gate of each, drawn once per node: ``(n, d)`` each."""

    masks: dict[str, Tensor]

    def of(self, nodes: Tensor) -> GatedViews:
        """The views of some nodes."""
        views = super().of(nodes)
        masks = {name: mask.index_select(0, nodes) for name, mask in self.masks.items()}
        return GatedViews(views.behaviour, views.modal, masks)


class SMORE(TwoViewRecommender):
    """SMORE, "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal Recommendation"
    (WSDM 2025, arXiv 2412.14978).

    Each item's projected features are Fourier-transformed along the d coordinates and pass a learnt complex filter; the
    product of all modalities' spectra, filtered too, is a further, fused modality. All of them gate the item ids and
    are propagated as in MGCN, the fused one over the entrywise maximum of the item graphs. Behaviour gates every view;
    those of single modalities are also weighed by an attention computed from the fused one.

    Final embeddings and loss, with v = 0, 1, ..., M the fused and the single modalities, and q_v the filters::

        f_m = FFT(X_m);   f_0 = f_1 * ... * f_M;   x_v = FFT^-1(q_v * f_v);   S_0 = max_m S_m
        z_v = [A_u V_v; V_v],   V_v = S_v^n (I * sigma(x_v W_v))
        Z = (b_0 * z_0 + sum_m b_m * softmax(MLP_m(z_0)) * z_m) / (M + 1),   b_v = drop(sigma(H W'_v))
        [user; item] = H + Z
        loss = BPR + reg_weight L2(user, item) + cl_weight (InfoNCE(Z_u, H_u) + InfoNCE(Z_i, H_i))

    As in the published code, the softmax is over the d coordinates, not over modalities, which makes the single
    modalities about d times smaller than the fused one, and the loss is MGCN's, with temperature 0.2.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(10, 2), items=(13, 7.5), batch=(30, 22))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, self.fused_branch = self.embedding_size, self.branch_name("fused")
        views = [*self.modalities, self.fused_branch]
        own_k = config["modality_knn_k"] or {}
        self.projection = self._projections()
        # as real and imaginary parts: not every checkpoint format, nor autocast, takes complex numbers
        self.filter = nn.ParameterDict({v: nn.Parameter(torch.randn(d // 2 + 1, 2)) for v in views})
        self.item_gate = nn.ModuleDict({v: nn.Linear(d, d) for v in views})
        self.preference = nn.ModuleDict({v: nn.Linear(d, d) for v in views})
        self.attention = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d, bias=False)) for m in self.modalities}
        )
        graphs = {m: self.data.item_graph(m, own_k.get(m, config["knn_k"])) for m in self.modalities}
        self.item_graph = ModuleDict(graphs | {self.fused_branch: entrywise_maximum(list(graphs.values()))})
        self.dropout = nn.Dropout(config["dropout_prob"])

    def _filtered(self) -> dict[str, Tensor]:
        """Filtered features of each modality and of their fusion, ``(I, d)``."""
        d = self.embedding_size
        spectra = {
            m: torch.fft.rfft(self.projection[m](self.features[m]()).float(), norm="ortho") for m in self.modalities
        }
        # not torch.prod, whose gradient counts zeros and waits for the device meanwhile
        spectra[self.fused_branch] = functools.reduce(torch.mul, list(spectra.values()))
        filters = {view: torch.view_as_complex(self.filter[view]) for view in spectra}
        return {view: torch.fft.irfft(x * filters[view], n=d, norm="ortho") for view, x in spectra.items()}

    def _unfused(self) -> GatedViews:
        modal = {
            view: item_view(
                self.item_graph[view],
                self.user_item,
                self.item_embedding.weight * torch.sigmoid(self.item_gate[view](x)),
                self.n_mm_layers,
            )
            for view, x in self._filtered().items()
        }
        masks = {view: self.dropout(torch.ones_like(x)) for view, x in modal.items()}
        return GatedViews(self._behaviour(), modal, masks)

    def _fuse(self, views: UnfusedViews) -> TwoViews:
        side, masks = [], cast(GatedViews, views).masks
        for view, x in views.modal.items():
            preferred = torch.sigmoid(self.preference[view](views.behaviour)) * masks[view]
            if view != self.fused_branch:
                preferred = preferred * self.attention[view](views.modal[self.fused_branch]).softmax(dim=1)
            side.append(preferred * x)
        return TwoViews(views.behaviour, functools.reduce(torch.add, side) / len(side))


def entrywise_maximum(graphs: Sequence[SparseGraph]) -> SparseGraph:
    """The largest stored entry at each position of graphs of one shape; an entry that is not stored does not count."""
    parts = [graph.scipy().tocoo() for graph in graphs]
    rows, columns, values = (
        np.concatenate(arrays) for arrays in zip(*((*part.coords, part.data) for part in parts), strict=True)
    )
    n_columns = graphs[0].shape[1]
    positions = rows.astype(np.int64) * n_columns + columns
    order = np.argsort(positions, kind="stable")
    positions, starts = np.unique(positions[order], return_index=True)
    largest = np.maximum.reduceat(values[order], starts)
    return SparseGraph(sp.coo_array((largest, (positions // n_columns, positions % n_columns)), shape=graphs[0].shape))
