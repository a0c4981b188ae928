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

    Projected features gate the item embeddings (behaviour-guided purifier). For each modality the result is propagated
    over a frozen item graph, and users sum up their items; LightGCN gives the behaviour view. The fuser, which MambaRec
    shares, joins the modalities, and a contrastive term aligns the two views.

    Readings of the published code (MMRec): its temperature 0.5 is stored but never read, 0.2 is used; the L2 term is
    that of the final embeddings, divided by the configured batch size; users are a sum with the weights of the
    normalised graph, not a mean. Without modalities both views are the behaviour view.
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
