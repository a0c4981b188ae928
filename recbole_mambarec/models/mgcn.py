"""MGCN: features purified by behaviour, spread over one item graph per modality, and fused under its guidance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.losses import bpr, l2_half, node_contrast
from recbole_mambarec.layers.propagation import item_view, mean_of_layers, split_nodes
from recbole_mambarec.models.base import MultimodalRecommender


class Views(NamedTuple):
    """The two views of all nodes, users first, ``(U + I, d)``; their sum is the final embedding."""

    behaviour: Tensor
    side: Tensor


class MGCN(MultimodalRecommender):
    """MGCN, "Multi-View Graph Convolutional Network for Multimedia Recommendation" (MM 2023, arXiv 2308.03588).

    Features are projected and act as a gate on the item embeddings (behaviour-guided purifier). Each modality spreads
    the result over its own frozen item graph, users summing their items; LightGCN gives the behaviour view. A fuser
    shared with MambaRec joins the modalities, and a contrastive term aligns the two views.

    Readings of the published code (MMRec): its stored temperature 0.5 is never read, 0.2 is used; the L2 term is of the
    final embeddings and divided by the configured batch size; users are a sum with the weights of the normalised graph,
    not a mean. Without modalities both views are the behaviour.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.n_layers, self.n_ui_layers = config["n_layers"], config["n_ui_layers"]
        self.reg_weight, self.cl_weight = config["reg_weight"], config["cl_weight"]
        self.temperature = config["temperature"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.item_gate = nn.ModuleDict({m: nn.Linear(d, d) for m in self.modalities})
        self.item_graph = nn.ModuleDict({m: data.item_graph(m, config["knn_k"]) for m in self.modalities})
        self.bipartite, self.user_item = data.bipartite, data.user_item
        self.fusion = BehaviourGuidedFusion(d, self.modalities)

    def _views(self) -> Views:
        modal = {}
        for m in self.modalities:
            gate = torch.sigmoid(self.item_gate[m](self.projection[m](self.features[m]())))
            purified = self.item_embedding.weight * gate
            modal[m] = item_view(self.item_graph[m], self.user_item, purified, self.n_layers)
        behaviour = self._behaviour()
        return Views(behaviour, self.fusion(modal, behaviour))

    def _behaviour(self) -> Tensor:
        """LightGCN's nodes."""
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        return mean_of_layers(self.bipartite, nodes, self.n_ui_layers)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Behaviour view plus fused modality view."""
        return split_nodes(sum(self._views()), self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, L2 of the final embeddings, and the contrast of the two views."""
        views = self._views()
        all_users, all_items = split_nodes(sum(views), self.data.n_users)
        u, p, n = all_users[users], all_items[positives], all_items[negatives]
        contrast = node_contrast(views.side, views.behaviour, users, positives, self.data.n_users, self.temperature)
        return {
            "bpr": bpr(u, p, n),
            "reg": self.reg_weight * l2_half(u, p, n, batch_size=self.batch_size),
            "contrastive": self.cl_weight * contrast,
        }
