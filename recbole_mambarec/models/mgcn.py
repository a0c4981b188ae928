"""MGCN: features purified by behaviour, spread over one item graph per modality, and fused under its guidance."""

from __future__ import annotations

import torch
from torch import nn

from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.propagation import item_view
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.views import TwoViewRecommender, Views


class MGCN(TwoViewRecommender):
    """MGCN, "Multi-View Graph Convolutional Network for Multimedia Recommendation" (MM 2023, arXiv 2308.03588).

    Features are projected and act as a gate on the item embeddings (behaviour-guided purifier). Each modality spreads
    the result over its own frozen item graph, users summing their items; LightGCN gives the behaviour view. A fuser
    shared with MambaRec joins the modalities, and a contrastive term aligns the two views.

    Readings of the published code (MMRec): its stored temperature 0.5 is never read, 0.2 is used; the L2 term is of the
    final embeddings and divided by the configured batch size; users are a sum with the weights of the normalised graph,
    not a mean. Without modalities both views are the behaviour.
    """

    step_memory = StepMemory(users=(2, 8.5), items=(4, 10), batch=(13, 0))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d = self.embedding_size
        self.projection = self._projections()
        self.item_gate = nn.ModuleDict({m: nn.Linear(d, d) for m in self.modalities})
        self.item_graph = nn.ModuleDict({m: self.data.item_graph(m, config["knn_k"]) for m in self.modalities})
        self.fusion = BehaviourGuidedFusion(d, self.modalities)

    def _views(self) -> Views:
        modal = {}
        for m in self.modalities:
            gate = torch.sigmoid(self.item_gate[m](self.projection[m](self.features[m]())))
            purified = self.item_embedding.weight * gate
            modal[m] = item_view(self.item_graph[m], self.user_item, purified, self.n_mm_layers)
        behaviour = self._behaviour()
        return Views(behaviour, self.fusion(modal, behaviour))
