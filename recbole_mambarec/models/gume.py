"""GUME: MGCN with item-item edges in the user-item graph and user tables per modality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.data.graphs.sparse import SparseGraph, inverse_sqrt
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.losses import info_nce, l2_half, moment_gap
from recbole_mambarec.layers.noise import signed_noise
from recbole_mambarec.layers.propagation import mean_of_layers, propagate
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.views import TwoViewRecommender, UnfusedViews


class GUME(TwoViewRecommender):
    """GUME, "Graphs and User Modalities Enhancement for Long-Tail Multimodal Recommendation" (CIKM 2024, arXiv
    2407.12338).

    Items that are neighbours in every modality are linked in the user-item graph, so that rare items are better
    connected. Features gate the item ids, which are propagated over the item graphs and fused with LightGCN's view as
    in MGCN. Users have a table per modality, too: LightGCN over it and the propagated items gives extended modalities
    T, which are part of no score, but which losses tie to the fused view.

    Final embeddings and loss, with links between items in A, fuse as in MGCN, and x' a noisy copy of x::

        V_m = S_m^n (I * sigma(MLP_m(F_m)));   z_m = [A_u V_m; V_m];   Z = fuse(z_1, ..., z_M; H)
        [user; item] = H + Z;   T = mean_m LightGCN([P_m; V_m])
        loss = BPR + reg_weight L2(user, item) + cl_weight (InfoNCE(Z_u, H_u) + InfoNCE(Z_i, H_i))
               + user_weight (InfoNCE(T_u, Z_u) + InfoNCE(Z_u', Z_u') + InfoNCE(T_u', T_u'))
               + gap_weight sum_(m<k) gap(z_m, z_k) + extended_weight L2(T_i)

    MLP_m has no activation between its two maps; gap is the difference in mean plus that in variance over all entries;
    the terms of ``user_weight`` have the temperature ``user_temperature``; L2(T_i) takes positive items alone. The
    graph with links between items is directed.

    As in the published code, A_u, which carries features to users, is the block of the extended graph. Noise is drawn
    for the rows of the batch, where the published code draws it for all nodes and keeps those rows.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(9, 7), items=(10, 6.5), batch=(13, 25))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.extended_weight, self.gap_weight = config["extended_weight"], config["gap_weight"]
        self.user_weight, self.user_temperature = config["user_weight"], config["user_temperature"]
        self.user_modality = ModuleDict({m: self.id_embedding(data.n_users) for m in self.modalities})
        self.item_gate = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(self.feature_dim(m), d), nn.Linear(d, d)) for m in self.modalities}
        )
        self.item_graph = ModuleDict({m: data.item_graph(m, config["knn_k"]) for m in self.modalities})
        item_edges = shared_neighbours([data.neighbours(m, config["knn_k"]) for m in self.modalities])
        self.bipartite = bipartite_with_items(data, item_edges)
        self.user_item = SparseGraph(self.bipartite.scipy()[: data.n_users, data.n_users :])
        self.fusion = BehaviourGuidedFusion(d, self.modalities)

    def _purified(self) -> dict[str, Tensor]:
        """Gated items of each modality after propagation over its graph, ``(I, d)``."""
        gates = {m: torch.sigmoid(self.item_gate[m](self.features[m]())) for m in self.modalities}
        ids = self.item_embedding.weight
        return {m: propagate(self.item_graph[m], ids * gates[m], self.n_mm_layers) for m in gates}

    def _modal(self, purified: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nodes of each modality, ``(U + I, d)``."""
        return {m: torch.cat([self.user_item.propagate(items), items]) for m, items in purified.items()}

    def _unfused(self) -> UnfusedViews:
        return UnfusedViews(self._behaviour(), self._modal(self._purified()))

    def _extended(self, purified: dict[str, Tensor]) -> Tensor:
        """Nodes of the extended user modalities, the mean over modalities, ``(U + I, d)``."""
        nodes = [
            mean_of_layers(self.bipartite, torch.cat([self.user_modality[m].weight, items]), self.n_ui_layers)
            for m, items in purified.items()
        ]
        return cast(Tensor, sum(nodes)) / len(nodes)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """MGCN's terms; L2 of extended items; moment gaps between modalities; extended users against fused ones."""
        purified = self._purified()
        views, extended = UnfusedViews(self._behaviour(), self._modal(purified)), self._extended(purified)
        batch = self._views_of_batch(views, users, positives, negatives)
        fused_users, extended_users = batch[0].side, extended[users]
        gaps = [moment_gap(a, b) for a, b in combinations(views.modal.values(), 2)]
        user_terms = info_nce(extended_users, fused_users, self.user_temperature)
        for x in (fused_users, extended_users):
            user_terms = user_terms + info_nce(signed_noise(x), signed_noise(x), self.user_temperature)
        extended_items = extended[positives + self.data.n_users]
        return self._view_loss(*batch) | {
            "reg_extended": self.extended_weight * l2_half(extended_items, batch_size=self.batch_size),
            "gap": self.gap_weight * sum(gaps, user_terms.new_zeros(())),
            "users": self.user_weight * user_terms,
        }


def shared_neighbours(lists: Sequence[Neighbours]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i != j, with j in every one of i's neighbour lists: two arrays ``(E,)`` sorted by i, then j."""
    n_items = len(lists[0].indices)
    common: np.ndarray | None = None
    for neighbours in lists:
        rows, columns, _ = neighbours.edges()
        codes = rows * n_items + columns
        common = np.unique(codes) if common is None else np.intersect1d(common, codes)
    rows, columns = common // n_items, common % n_items
    return rows[rows != columns], columns[rows != columns]


def bipartite_with_items(data: TrainingData, item_edges: tuple[np.ndarray, np.ndarray]) -> SparseGraph:
    """``D^-1/2 A D^-1/2``, ``(U + I, U + I)``, of the training graph with directed item-item edges; D are row sums.

    Args:
        item_edges: (receiving item, sending item) of each edge, ``(E,)`` each; distinct, and none links an item to
            itself.
    """
    block = interaction_matrix(data.users, data.items, data.n_users, data.n_items).astype(np.float64)
    item_item = sp.coo_array((np.ones(len(item_edges[0])), item_edges), shape=(data.n_items, data.n_items))
    matrix = sp.block_array([[None, block], [block.T, item_item]], format="csr")
    scale = sp.diags_array(inverse_sqrt(matrix.sum(axis=1)))
    return SparseGraph(scale @ matrix @ scale)
