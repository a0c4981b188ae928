"""SELFCFED_LGN: LightGCN that learns without negatives, by predicting perturbed copies of itself."""

from __future__ import annotations

import torch
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_mambarec.layers.edge_dropout import EdgeDropout
from recbole_mambarec.layers.losses import l2_half, mean_cosine
from recbole_mambarec.layers.noise import row_dropout
from recbole_mambarec.layers.propagation import Graph, light_gcn
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender


class SELFCFED_LGN(MultimodalRecommender):
    """SelfCF with embedding dropout on LightGCN, "SelfCF: A Simple Framework for Self-supervised Collaborative
    Filtering" (TORS 2023, arXiv 2107.03019).

    A model of ids alone, the ancestor of BM3; modalities do not change it. LightGCN's users and items predict each
    other's copies, which are under dropout and without gradient. There are no negative items, so RecBole samples none.

    Final embeddings and loss, with p a linear predictor::

        user = [p(H_u) | H_u];   item = [H_i | p(H_i)]
        s(u, i) = p(H_u) . H_i + H_u . p(H_i)
        loss = -mean(cos(p(H_u), sg(drop(H_i))) + cos(p(H_i), sg(drop(H_u)))) / 2
               + reg_weight (|H_u|^2 + |H_i|^2) / 2

    As in the published code (MMRec), a share of the graph's entries is dropped in every training step; the share is
    drawn evenly from 0 to 1 (``edge_dropout``).
    """

    input_type = InputType.POINTWISE
    step_memory = StepMemory(users=(8, 0), items=(8, 0), batch=(11.5, 0), tables=0)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.n_ui_layers, self.dropout_prob = config["n_ui_layers"], config["dropout_prob"]
        self.reg_weight = config["reg_weight"]
        self.user_embedding = self.id_embedding(self.data.n_users)
        self.item_embedding = self.id_embedding(self.data.n_items)
        self.predictor = nn.Linear(self.embedding_size, self.embedding_size)
        self.bipartite = self.data.bipartite
        self.edges = EdgeDropout(self.bipartite) if config["edge_dropout"] else None

    def _online(self) -> tuple[Tensor, Tensor]:
        """LightGCN's users and items, in training on the entries that are drawn for this step."""
        graph: Graph = self.bipartite
        if self.training and self.edges is not None:
            graph = self.edges.draw(torch.rand(1, device=self.user_embedding.weight.device))
        return light_gcn(graph, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Both halves of a score side by side, ``(U, 2d)`` and ``(I, 2d)``."""
        users, items = self._online()
        return torch.cat([self.predictor(users), users], dim=1), torch.cat([items, self.predictor(items)], dim=1)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """Each side of a pair predicts the other one's copy; L2 of the batch."""
        all_users, all_items = self._online()
        u, i = all_users[users], all_items[positives]
        user_target, item_target = (row_dropout(x.detach(), self.dropout_prob) for x in (u, i))
        likeness = mean_cosine(self.predictor(u), item_target) + mean_cosine(self.predictor(i), user_target)
        return {"pairs": -likeness / 2, "reg": self.reg_weight * l2_half(u, i, batch_size=1)}
