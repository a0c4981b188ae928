"""LayerGCN: layers weighed by their similarity to the ids, on pruned edges."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.losses import bpr, l2_half
from recbole_mambarec.layers.propagation import similar_layers, split_nodes
from recbole_mambarec.layers.rows import processes
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.pruning import PrunedRecommender


class LayerGCN(PrunedRecommender):
    """LayerGCN, "Layer-refined Graph Convolutional Networks for Recommendation" (ICDE 2023, arXiv 2207.11088).

    A model of ids alone; modalities do not change it. Each layer weighs what a node receives by its cosine to the
    node's id embedding, and the layers after the ids are added up. Training uses a fresh draw of edges in every epoch.

    Final embeddings and loss, where A has only the drawn edges in training, and the loss is a sum over the batch::

        z_0 = [U; I];   z_l = cos(A z_(l-1), z_0) A z_(l-1)
        [user; item] = z_1 + ... + z_L
        loss = sum(-ln sigma(s(u, i) - s(u, j))) + reg_weight (|U|^2 + |I|^2) / 2

    As in the published code (MMRec), edges are drawn with FREEDOM's weights in even epochs and with equal ones in odd
    epochs.
    """

    step_memory = StepMemory(users=(15, 0), items=(15, 0), batch=(7, 0), tables=0)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.n_ui_layers, self.reg_weight = config["n_ui_layers"], config["reg_weight"]
        self.user_embedding = self.id_embedding(self.data.n_users)
        self.item_embedding = self.id_embedding(self.data.n_items)

    def _draw_graph(self, epoch: int) -> SparseGraph:
        return self.data.pruned_bipartite(self.prune_rate, by_degree=epoch % 2 == 0)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Sum of the weighed layers."""
        ids = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        return split_nodes(similar_layers(self.graph, ids, self.n_ui_layers, with_start=False), self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR and L2 of the ids, sums over the batch."""
        all_users, all_items = self.embed()
        ids = self.user_embedding(users), self.item_embedding(positives), self.item_embedding(negatives)
        ranking = bpr(all_users[users], all_items[positives], all_items[negatives])
        return {
            "bpr": ranking * len(users) * processes(),
            "reg": self.reg_weight * l2_half(*ids, batch_size=1),
        }
