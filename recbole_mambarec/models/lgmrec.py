"""LGMRec: local graphs per modality, and global hypergraphs whose edges are learnt attributes."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr, embedding_norm, info_nce_among
from recbole_mambarec.layers.noise import gumbel_noise
from recbole_mambarec.layers.propagation import light_gcn, propagate, split_nodes
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of


class LGMRec(MultimodalRecommender):
    """LGMRec, "Local and Global Graph Learning for Multimodal Recommendation" (AAAI 2024, arXiv 2312.16400).

    Local: LightGCN on ids, plus, per modality, projected features (users start at the mean of their items) taken the
    given number of hops over the same graph. Global: an item belongs to hyperedges by a softmax of its features'
    logits, a user by one of the *sum* of the logits of their items, so that heavy users get nearly one hyperedge;
    embeddings pass items -> hyperedges -> items and users. The global embeddings of the modalities are contrasted over
    all nodes.

    Readings of the published code (MMRec, which has the authors' fix of July 2024 to the users' hyperedges; the numbers
    of the paper predate it): the contrastive term is a sum over the batch, not a mean, of image against text; with
    other numbers of modalities here it runs over their pairs. The published code draws Gumbel noise for the hyperedges
    at evaluation too, so that its scores change from call to call; here evaluation is a plain softmax unless
    ``variant: released`` asks for the noise.
    """

    min_modalities = 1
    temperature = 0.2
    step_memory = StepMemory(users=(10, 3.5), items=(10.5, 4), batch=(0, 7.5), tables=6)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data, modalities = self.embedding_size, self.data, self.modalities
        for key in ("n_ui_layers", "n_feature_layers", "n_hyper_layers", "alpha", "reg_weight", "cl_weight"):
            setattr(self, key, config[key])
        self.noise_in_evaluation = variant_of(config) == "released"
        self._noise = gumbel_noise
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ParameterDict({m: self._matrix(self.feature_dim(m), d) for m in modalities})
        self.hyperedges = nn.ParameterDict(
            {m: self._matrix(self.feature_dim(m), config["hyper_num"]) for m in modalities}
        )
        self.dropout = nn.Dropout(1.0 - config["keep_rate"])
        self.bipartite = data.bipartite
        self.mean_of_items, self.sum_of_items = (data.user_item_weighted(w) for w in ("mean", "binary"))

    @staticmethod
    def _matrix(rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))

    def _local(self, modality: str) -> Tensor:
        """Nodes of a modality, ``(U + I, d)``: its projected features after the last hop."""
        items = self.features[modality]() @ self.projection[modality]
        return propagate(self.bipartite, torch.cat([self.mean_of_items.propagate(items), items]), self.n_feature_layers)

    def _membership(self, logits: Tensor) -> Tensor:
        """Shares of the hyperedges in each row."""
        if self.training or self.noise_in_evaluation:
            logits = logits + self._noise(logits)
        return self.dropout((logits / self.temperature).softmax(dim=1))

    def _global(self, modality: str, items: Tensor) -> tuple[Tensor, Tensor]:
        """Users and items of a modality after the last hypergraph layer, which starts at ``items`` ``(I, d)``."""
        logits = (self.features[modality]() @ self.hyperedges[modality]).float()
        of_items, of_users = self._membership(logits), self._membership(self.sum_of_items.propagate(logits))
        for _ in range(self.n_hyper_layers):
            edges = of_items.T @ items
            items, users = of_items @ edges, of_users @ edges
        return users, items

    def _embed(self) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        users, items = light_gcn(
            self.bipartite, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers
        )
        hyper = {m: self._global(m, items) for m in self.modalities}
        local = sum(F.normalize(self._local(m), dim=1) for m in self.modalities)
        everywhere = F.normalize(sum(torch.cat(pair) for pair in hyper.values()), dim=1)
        users, items = split_nodes(torch.cat([users, items]) + local + self.alpha * everywhere, self.data.n_users)
        return users, items, hyper

    def embed(self) -> tuple[Tensor, Tensor]:
        """Collaborative, local and global embeddings added."""
        return self._embed()[:2]

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, contrast of the hypergraphs, norm of the final embeddings."""
        all_users, all_items, hyper = self._embed()
        u, p, n = all_users[users], all_items[positives], all_items[negatives]
        parts = {"bpr": bpr(u, p, n)}
        pairs = list(combinations(hyper.values(), 2))
        for side, (name, rows) in enumerate((("user", users), ("item", positives))):
            terms = [info_nce_among(a[side][rows], b[side], rows, self.temperature) for a, b in pairs]
            parts[f"contrastive_{name}"] = self.cl_weight * sum(terms, u.new_zeros(()))
        return parts | {"reg": self.reg_weight * embedding_norm(*map(all_rows, (u, p, n)))}
