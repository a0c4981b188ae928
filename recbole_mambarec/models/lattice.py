"""LATTICE: item graphs learnt from projected features, added to LightGCN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.learnt_graph import WeightedNeighbours, kept_cosines, symmetric_sum
from recbole_mambarec.layers.losses import bpr, l2_half
from recbole_mambarec.layers.propagation import mean_of_layers, split_nodes
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.value_checks import check_share


class LATTICE(MultimodalRecommender):
    """LATTICE, "Mining Latent Structures for Multimedia Recommendation" (MM 2021, arXiv 2104.09036).

    The item graph is a mixture of graphs over raw features and graphs over projected features, which are learnt. Item
    ids spread over it, and the direction of the result is added to LightGCN's items. The modalities have one learnt
    weight each.

    Final embeddings and loss, with L_m the cosines of the nearest neighbours in X_m, beta the softmax of one number per
    modality, N the normalisation by row sums that S_m has, and r = ``ii_raw_weight``::

        T = r sum_m beta_m S_m + (1 - r) N(sum_m beta_m L_m)
        user = H_u;   item = H_i + unit(T^n I)
        loss = BPR + reg_weight L2(user, item)

    As in the published code (MMRec), LightGCN has ``D^-1 (B + 1)`` in place of A, with B the 0 and 1 of the user-item
    graph: nodes are among their own neighbours, and rows are means. The neighbours in projected features are searched
    once per epoch, and only the first batch of an epoch sends a gradient through the graph, to projections, features
    and beta; later batches leave them as they are (but for Adam's moments). Evaluation searches again.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(5, 0), items=(8, 14), batch=(6.5, 0.5))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        data, width = self.data, config["feat_embed_dim"]
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.reg_weight, self.knn_k = config["reg_weight"], config["knn_k"]
        self.raw_weight = check_share("ii_raw_weight", config["ii_raw_weight"])
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = ModuleDict({m: nn.Linear(self.feature_dim(m), width) for m in self.modalities})
        for layer in self.projection.values():
            nn.init.xavier_uniform_(layer.weight)
        self.modality_weight = nn.Parameter(torch.full((len(self.modalities),), 1.0 / len(self.modalities)))
        self.bipartite = data.mean_with_self
        self.raw_graph = ModuleDict({m: data.item_graph(m, self.knn_k) for m in self.modalities})
        # in training: the lists of this epoch, and what its first batch has made of them
        self._lists: dict[str, Neighbours] = {}
        self._learnt: tuple[WeightedNeighbours, Tensor] | None = None

    def pre_epoch(self, epoch: int) -> None:
        """Search the neighbours with which the next batch computes the graph."""
        with torch.no_grad():
            self._lists = {m: self._search(m, self._projected(m)) for m in self.modalities}
        self._learnt = None

    def _projected(self, modality: str) -> Tensor:
        return self.projection[modality](self.features[modality]())

    def _search(self, modality: str, projected: Tensor) -> Neighbours:
        return self.data.neighbours_among(projected, self.knn_k, modality)

    def learnt_graph(self, modality: str) -> WeightedNeighbours:
        """Cosines of the nearest neighbours in a modality's projected features."""
        projected = self._projected(modality)
        lists = self._lists if self.training else {}
        return kept_cosines(projected, lists.get(modality) or self._search(modality, projected))

    def _learn(self) -> tuple[WeightedNeighbours, Tensor]:
        """The learnt part of the item graph, and beta, both with gradient."""
        beta = self.modality_weight.softmax(dim=0)
        return symmetric_sum([self.learnt_graph(m) for m in self.modalities], beta, 1.0 - self.raw_weight), beta

    def _item_graph(self) -> tuple[WeightedNeighbours, Tensor]:
        if self.training and self._learnt is not None:
            return self._learnt
        learnt, beta = self._learn()
        if self.training:
            self._learnt = learnt.detach(), beta.detach()
        return learnt, beta

    def _spread(self) -> Tensor:
        """Item ids after ``n_mm_layers`` steps over the item graph."""
        (learnt, beta), x = self._item_graph(), self.item_embedding.weight
        for _ in range(self.n_mm_layers):
            raw = sum(beta[m] * self.raw_graph[name].propagate(x) for m, name in enumerate(self.modalities))
            x = self.raw_weight * raw + learnt.propagate(x)
        return x

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN's users and items, plus the direction in which the item graph moves an item."""
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        users, items = split_nodes(mean_of_layers(self.bipartite, nodes, self.n_ui_layers), self.data.n_users)
        return users, items + unit_rows(self._spread())

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and L2 of the final embeddings."""
        all_users, all_items = self.embed()
        rows = all_users[users], all_items[positives], all_items[negatives]
        return {"bpr": bpr(*rows), "reg": self.reg_weight * l2_half(*rows, batch_size=self.batch_size)}
