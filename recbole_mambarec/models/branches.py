"""What DualGNN, DRAGON and MENTOR share: a branch of preferences and features per modality, weighed by each user."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.layers.preference import PreferenceBranch
from recbole_mambarec.models.base import MultimodalRecommender


class BranchRecommender(MultimodalRecommender):
    """Branches X_m (:class:`~recbole_mambarec.layers.preference.PreferenceBranch`) and weights w of the users.

    The weights are free numbers that start as shares, one per user and modality. The loss is BPR to base 2,
    ``-log2 sigmoid``, plus the mean squares of the batch users' preferences and of all weights.
    """

    min_modalities = 1

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.hidden_dim, self.reg_weight = config["hidden_dim"], config["reg_weight"]
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.branch = ModuleDict({m: self._branch(self.feature_dim(m)) for m in self.modalities})
        weights = nn.init.xavier_normal_(torch.empty(self.data.n_users, len(self.modalities), 1))
        self.user_weight = nn.Parameter(weights.squeeze(2).softmax(dim=1))
        self.bipartite = self.data.bipartite

    def _branch(self, in_dim: int) -> PreferenceBranch:
        return PreferenceBranch(self.data.n_users, in_dim, self.hidden_dim, self.embedding_size)

    def _modal_nodes(self) -> dict[str, Tensor]:
        """Nodes of each branch, ``(U + I, d)``."""
        return {m: self.branch[m](self.features[m](), self.bipartite) for m in self.modalities}

    def _side_by_side(self, nodes: list[Tensor]) -> Tensor:
        """Nodes of all modalities as ``(U + I, M d)``, those of users weighed."""
        weights = self.user_weight.repeat_interleave(self.embedding_size, dim=1)
        joined = torch.cat(nodes, dim=1)
        return torch.cat([joined[: len(weights)] * weights, joined[len(weights) :]])

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR to base 2 and the squares of preferences and weights."""
        all_users, all_items = self.embed()
        return self._ranking_loss(all_users, all_items, users, positives, negatives)

    def _ranking_loss(
        self, all_users: Tensor, all_items: Tensor, users: Tensor, positives: Tensor, negatives: Tensor
    ) -> dict[str, Tensor]:
        squares = sum(branch.preference[users].square().mean() for branch in self.branch.values())
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]) / math.log(2),
            "reg": self.reg_weight * (squares + self.user_weight.square().mean()),
        }
