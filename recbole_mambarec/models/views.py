"""Models whose final embedding is a behaviour view plus a side view fused from the modalities."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr, l2_half, node_contrast
from recbole_mambarec.layers.propagation import mean_of_layers, split_nodes
from recbole_mambarec.models.base import MultimodalRecommender


class TwoViews(NamedTuple):
    """The two views of all nodes, users first, ``(U + I, d)`` each; their sum is the final embedding."""

    behaviour: Tensor
    side: Tensor


class TwoViewRecommender(MultimodalRecommender):
    """What MGCN and its successors share: ids, features, LightGCN as the behaviour view, and the loss."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.n_mm_layers, self.n_ui_layers = config["n_mm_layers"], config["n_ui_layers"]
        self.reg_weight, self.cl_weight = config["reg_weight"], config["cl_weight"]
        self.temperature = config["temperature"]
        self.user_embedding = self.id_embedding(self.data.n_users)
        self.item_embedding = self.id_embedding(self.data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.bipartite, self.user_item = self.data.bipartite, self.data.user_item

    @abstractmethod
    def _views(self) -> TwoViews:
        """Both views of all nodes."""

    def _projections(self) -> nn.ModuleDict:
        """A linear map of the raw features to width d per modality."""
        return nn.ModuleDict({m: nn.Linear(self.feature_dim(m), self.embedding_size) for m in self.modalities})

    def _behaviour(self) -> Tensor:
        """Users and items of LightGCN on the ids, ``(U + I, d)``."""
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        return mean_of_layers(self.bipartite, nodes, self.n_ui_layers)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Behaviour view plus fused modality view."""
        views = self._views()
        return split_nodes(views.behaviour + views.side, self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, L2 of the final embeddings, and the contrast of the two views."""
        return self._view_loss(self._views(), users, positives, negatives)

    def _view_loss(self, views: TwoViews, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        all_users, all_items = split_nodes(views.behaviour + views.side, self.data.n_users)
        u, p, n = all_users[users], all_items[positives], all_items[negatives]
        contrast = node_contrast(views.side, views.behaviour, users, positives, self.data.n_users, self.temperature)
        return {
            "bpr": bpr(u, p, n),
            "reg": self.reg_weight * l2_half(u, p, n, batch_size=self.batch_size),
            "contrastive": self.cl_weight * contrast,
        }
