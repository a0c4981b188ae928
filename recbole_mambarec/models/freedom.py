"""FREEDOM: a frozen item graph, a pruned user-item graph, and features that only help to learn users."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.pruning import PrunedRecommender


class FREEDOM(PrunedRecommender):
    """FREEDOM, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation" (MM 2023,
    arXiv 2211.06924).

    Item ids are propagated over a frozen item graph and added to LightGCN's items. In every epoch LightGCN trains on a
    fresh draw of edges, from which those of popular nodes are dropped more often; evaluation uses all edges. The
    projected features are part of no score: they act through the item graph and through one BPR term each, with the
    same users.

    Final embeddings and loss, where A has only the drawn edges in training::

        user = H_u;   item = H_i + S^n I
        loss = BPR + reg_weight sum_m BPR(H_u, X_m)

    As in the published code (MMRec), all neighbours weigh the same, whatever their similarity, and there is no L2 term.
    With a ``reg_weight`` of 0, features and projections are not trained at all. In the item graph, the modality
    ``image`` has the weight ``mm_image_weight`` and the others share the rest; without an ``image`` all weigh the same.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(8, 0), items=(9.5, 0.5), batch=(6, 1), picked=(2, 4))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.reg_weight = config["reg_weight"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.item_graph = data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN's users and items, plus the items propagated over their own graph."""
        users, items = light_gcn(self.graph, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)
        return users, items + propagate(self.item_graph, self.item_embedding.weight, self.n_mm_layers)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR on the final embeddings and, with the same users, on each modality's projected features."""
        all_users, all_items = self.embed()
        u = all_users[users]
        parts = {"bpr": bpr(u, all_items[positives], all_items[negatives])}
        if self.reg_weight > 0:
            rows = torch.cat([positives, negatives])
            for m in self.modalities:
                p, n = self.projection[m](self.features[m]()[rows]).chunk(2)
                parts[f"bpr_{m}"] = self.reg_weight * bpr(u, p, n)
        return parts
