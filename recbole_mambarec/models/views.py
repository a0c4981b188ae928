"""Models whose final embedding is a behaviour view plus a side view fused from the modalities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr, info_nce, l2_half
from recbole_mambarec.layers.propagation import mean_of_layers, split_nodes
from recbole_mambarec.models.base import MultimodalRecommender


@dataclass(frozen=True)
class UnfusedViews:
    """The behaviour view and that of each modality, of the same nodes: ``(n, d)`` each."""

    behaviour: Tensor
    modal: dict[str, Tensor]

    def of(self, nodes: Tensor) -> UnfusedViews:
        """The views of some nodes."""
        modal = {name: view.index_select(0, nodes) for name, view in self.modal.items()}
        return UnfusedViews(self.behaviour.index_select(0, nodes), modal)


class TwoViews(NamedTuple):
    """The two views of some nodes, ``(n, d)`` each; their sum is the final embedding."""

    behaviour: Tensor
    side: Tensor


class TwoViewRecommender(MultimodalRecommender):
    """What MGCN and its successors share: ids, features, LightGCN as the behaviour view, and the loss.

    Modalities are fused node by node: in training those of the batch, in evaluation all.
    """

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
    def _unfused(self) -> UnfusedViews:
        """The views of all nodes, users first, ``(U + I, d)`` each."""

    def _fuse(self, views: UnfusedViews) -> TwoViews:
        """One side view out of those of the modalities."""
        return TwoViews(views.behaviour, self.fusion(views.modal, views.behaviour))

    def _views(self) -> TwoViews:
        """Both views of all nodes, users first."""
        return self._fuse(self._unfused())

    def _views_of_batch(
        self, views: UnfusedViews, users: Tensor, positives: Tensor, negatives: Tensor
    ) -> tuple[TwoViews, TwoViews, TwoViews]:
        """Both views of the users, the positive and the negative items of a batch, ``(B, d)`` each."""
        n_users = self.data.n_users
        fused = self._fuse(views.of(torch.cat([users, positives + n_users, negatives + n_users])))
        u, p, n = zip(*(view.chunk(3) for view in fused))
        return TwoViews(*u), TwoViews(*p), TwoViews(*n)

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
        return self._view_loss(*self._views_of_batch(self._unfused(), users, positives, negatives))

    def _view_loss(self, users: TwoViews, positives: TwoViews, negatives: TwoViews) -> dict[str, Tensor]:
        u, p, n = (view.behaviour + view.side for view in (users, positives, negatives))
        return {
            "bpr": bpr(u, p, n),
            "reg": self.reg_weight * l2_half(u, p, n, batch_size=self.batch_size),
            "contrastive": self.cl_weight * self._contrast(users, positives),
        }

    def _contrast(self, users: TwoViews, positives: TwoViews) -> Tensor:
        """The side view of each node should find its behaviour view: items among items, users among users."""
        items, among_users = (info_nce(view.side, view.behaviour, self.temperature) for view in (positives, users))
        return items + among_users
