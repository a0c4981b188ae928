"""MGCN: features purified by behaviour, spread over one item graph per modality, and fused under its guidance."""

from __future__ import annotations

import torch
from torch import nn

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.propagation import item_view
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.views import TwoViewRecommender, UnfusedViews


class MGCN(TwoViewRecommender):
    """MGCN, "Multi-View Graph Convolutional Network for Multimedia Recommendation" (MM 2023, arXiv 2308.03588).

    Projected features gate the item ids (behaviour-guided purifier). In each modality the result is propagated over a
    frozen item graph, and users sum up their items. The modalities are fused under the guidance of LightGCN's view, to
    which the result is added, and a contrastive term aligns the two views.

    Final embeddings and loss::

        V_m = S_m^n (I * sigma(X_m W_m));   z_m = [A_u V_m; V_m]
        [user; item] = H + Z,   Z = fuse(z_1, ..., z_M; H)
        fuse(z; H) = (c + sum_m sigma(H W_m) * (z_m - c)) / (M + 1)
        c = sum_m softmax_m(q . tanh(z_m W)) z_m
        loss = BPR + reg_weight L2(user, item) + cl_weight (InfoNCE(Z_u, H_u) + InfoNCE(Z_i, H_i))

    As in the published code (MMRec), users are a sum with the weights of the normalised graph, not a mean, and L2 is
    that of the final embeddings, divided by the configured batch size. The temperature is 0.2: the 0.5 that the
    published code stores is never read. Without modalities both views are the behaviour view H.
    """

    step_memory = StepMemory(users=(8, 1), items=(8.5, 3.5), batch=(0, 20))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d = self.embedding_size
        self.projection = self._projections()
        self.item_gate = nn.ModuleDict({m: nn.Linear(d, d) for m in self.modalities})
        self.item_graph = ModuleDict({m: self.data.item_graph(m, config["knn_k"]) for m in self.modalities})
        self.fusion = BehaviourGuidedFusion(d, self.modalities)

    def _unfused(self) -> UnfusedViews:
        modal = {}
        for m in self.modalities:
            gate = torch.sigmoid(self.item_gate[m](self.projection[m](self.features[m]())))
            purified = self.item_embedding.weight * gate
            modal[m] = item_view(self.item_graph[m], self.user_item, purified, self.n_mm_layers)
        return UnfusedViews(self._behaviour(), modal)
