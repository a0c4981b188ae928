"""COHESION: early fusion with ids, a refined graph convolution per modality, user and item graphs on top."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.layers.propagation import propagate, similar_layers, split_nodes
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.layers.user_graph import UserGraph
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of


class COHESION(MultimodalRecommender):
    """COHESION, "Composite Graph Convolutional Network with Dual-Stage Fusion for Multimodal Recommendation" (SIGIR
    2025, arXiv 2504.04452).

    Early fusion: each modality's features pass an MLP and are joined with the item ids by the root mean square of each
    coordinate. Each modality's branch, and one of ids alone, has its own user preferences, and a layer weighs what a
    node receives by its cosine to the node's start. Late fusion: the branches stand side by side, users also receive
    from the users who share most items with them, and items over FREEDOM's item graph. BPR gives a branch less weight
    where it already ranks the pair better than the others do.

    Final embeddings and loss, with b the branches, i.e. the ids (F_ids = I) and the modalities::

        z_0 = unit([P_b; sqrt((I^2 + MLP_b(F_b)^2) / 2)]);   z_l = cos(A z_(l-1), z_0) A z_(l-1)
        Z_b = z_0 + ... + z_L;   Z = [Z_ids | Z_1 | ... | Z_M]
        user = Z_u + C Z_u;   item = Z_i + S^n Z_i
        y_b = branch b's part of s(u, i) - s(u, j);   w_b = sg(1 - softmax_b(y_b))
        loss = mean(-log2 sigma(sum_b w_b y_b)) + reg_weight sum_m mean(P_m^2)

    As in the published code (``variant: released``), the id branch is cut from the gradient behind its layers: its
    preferences and MLP stay as drawn, and ids learn through the modalities alone. ``paper`` trains the branch. Edge
    pruning and a weight per user, which have no effect there, are left out here. A user with fewer than ``user_knn_k``
    neighbours has some of them repeated at random in every epoch. The published code evaluates with the draw of the
    last epoch; here evaluation uses each neighbour once, so that scores do not depend on chance.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(8, 15.5), items=(11.5, 20), batch=(7, 8))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data, self.id_branch = self.embedding_size, self.data, self.branch_name("ids")
        widths = {self.id_branch: d} | {m: self.feature_dim(m) for m in self.modalities}
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.reg_weight = config["reg_weight"]
        self.trains_ids = variant_of(config) == "paper"
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.item_embedding = nn.Parameter(torch.empty(data.n_items, d))
        self.preference = nn.ParameterDict({b: nn.Parameter(torch.empty(data.n_users, d)) for b in widths})
        for table in [self.item_embedding, *self.preference.values()]:
            nn.init.xavier_normal_(table)
        hidden = config["hidden_dim"]
        self.mlp = nn.ModuleDict(
            {b: nn.Sequential(nn.Linear(w, hidden), nn.LeakyReLU(), nn.Linear(hidden, d)) for b, w in widths.items()}
        )
        self.preference[self.id_branch].requires_grad_(self.trains_ids)
        self.mlp[self.id_branch].requires_grad_(self.trains_ids)
        self.bipartite = data.bipartite
        self.item_graph = data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])
        self.user_graph = UserGraph(data.co_users(config["user_knn_k"]))

    def pre_epoch(self, epoch: int) -> None:
        """Draw which co-users are repeated in this epoch."""
        self.user_graph.redraw()

    def _branch(self, branch: str) -> Tensor:
        """Nodes of a branch, ``(U + I, d)``."""
        ids, is_id_branch = self.item_embedding, branch == self.id_branch
        mapped = self.mlp[branch](ids if is_id_branch else self.features[branch]())
        items = ((ids.square() + mapped.float().square()) / 2 + 1e-8).sqrt()
        start = unit_rows(torch.cat([self.preference[branch], items]))
        total = similar_layers(self.bipartite, start, self.n_ui_layers, with_start=True)
        return total.detach() if is_id_branch and not self.trains_ids else total

    def embed(self) -> tuple[Tensor, Tensor]:
        """Branches side by side, plus what the user graph and the item graph bring; width d per branch."""
        nodes = torch.cat([self._branch(branch) for branch in self.mlp], dim=1)
        users, items = split_nodes(nodes, self.data.n_users)
        return users + self.user_graph(users), items + propagate(self.item_graph, items, self.n_mm_layers)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR with a weight per branch and pair, and mean squares of the modalities' preferences."""
        all_users, all_items = self.embed()
        u, p, n = all_users[users], all_items[positives], all_items[negatives]
        margins = (u * (p - n)).detach().unflatten(1, (len(self.mlp), -1)).sum(dim=2)
        weights = (1.0 - margins.softmax(dim=1)).repeat_interleave(self.embedding_size, dim=1)
        squares = sum(self.preference[m][users].square().mean() for m in self.modalities)
        return {"bpr": bpr(u * weights, p, n) / math.log(2), "reg": self.reg_weight * squares}
