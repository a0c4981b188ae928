"""LGMRec: a local graph per modality, and global hypergraphs whose hyperedges are learnt attributes."""

from __future__ import annotations

from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr, embedding_norm, info_nce_among
from recbole_mambarec.layers.noise import gumbel_noise
from recbole_mambarec.layers.propagation import light_gcn, propagate, split_nodes
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of


class LGMRec(MultimodalRecommender):
    """LGMRec, "Local and Global Graph Learning for Multimodal Recommendation" (AAAI 2024, arXiv 2312.16400).

    Three kinds of embeddings are added up: LightGCN's; local ones, which are the last hop of each modality's projected
    features over the user-item graph; and global ones, which items exchange over a few hyperedges, learnt attributes of
    each modality to which items and users belong by shares. A contrast ties the global embeddings of the modalities.

    Final embeddings and loss, with K = ``n_feature_layers`` and g Gumbel noise in training::

        Y_m = A^K [D_u^-1 R F_m W_m; F_m W_m]                                     (local)
        Q_i = drop(softmax((F_m V_m + g) / 0.2));   Q_u likewise of R F_m V_m     (shares)
        E_m = [Q_u h; Q_i h],   h = Q_i^T H_i                                     (global)
        [user; item] = H + sum_m unit(Y_m) + alpha unit(sum_m E_m)
        loss = BPR + cl_weight sum_(m<k) InfoNCE(E_m, E_k) + reg_weight (|u| + |i| + |j|) / n_batch

    With more than one of ``n_hyper_layers``, the items of E_m take the place of H_i in the next one. A user's logits
    are the *sum* of those of their items, so that a user with many items belongs to nearly one hyperedge. InfoNCE
    contrasts the batch's users with all users and its items with all items, with the temperature 0.2, and is a *sum*
    over the batch; ``|u|``, ``|i|`` and ``|j|`` are the norms of the batch's final embeddings.

    The published code is that in MMRec, which has the authors' fix of July 2024 to the users' hyperedges; the numbers
    of the paper predate it. It contrasts image against text; here the contrast runs over all pairs of modalities. It
    also draws Gumbel noise at evaluation, so that its scores change from call to call: ``variant: released`` keeps
    that, ``paper`` evaluates with a plain softmax.
    """

    min_modalities = 1
    temperature = 0.2
    step_memory = StepMemory(users=(10, 3.5), items=(10.5, 4), batch=(0, 7.5), tables=6)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data, modalities = self.embedding_size, self.data, self.modalities
        self.n_ui_layers, self.n_feature_layers = config["n_ui_layers"], config["n_feature_layers"]
        self.n_hyper_layers, self.alpha = config["n_hyper_layers"], config["alpha"]
        self.reg_weight, self.cl_weight = config["reg_weight"], config["cl_weight"]
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
        """M of a modality: its projected features after the last hop, ``(U + I, d)``."""
        items = self.features[modality]() @ self.projection[modality]
        return propagate(self.bipartite, torch.cat([self.mean_of_items.propagate(items), items]), self.n_feature_layers)

    def _membership(self, logits: Tensor) -> Tensor:
        """G: each row's shares of the hyperedges, ``(n, A)`` of logits ``(n, A)``."""
        if self.training or self.noise_in_evaluation:
            logits = logits + self._noise(logits)
        return self.dropout((logits / self.temperature).softmax(dim=1))

    def _global(self, modality: str, items: Tensor) -> tuple[Tensor, Tensor]:
        """E of a modality: users ``(U, d)`` and items ``(I, d)`` after the last hypergraph layer."""
        logits = (self.features[modality]() @ self.hyperedges[modality]).float()
        item_shares, user_shares = self._membership(logits), self._membership(self.sum_of_items.propagate(logits))
        for _ in range(self.n_hyper_layers):
            hyperedges = item_shares.T @ items
            items, users = item_shares @ hyperedges, user_shares @ hyperedges
        return users, items

    def _embed(self) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
        users, items = light_gcn(
            self.bipartite, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers
        )
        hyper = {m: self._global(m, items) for m in self.modalities}
        local = sum(unit_rows(self._local(m)) for m in self.modalities)
        attributes = unit_rows(cast(Tensor, sum(torch.cat(pair) for pair in hyper.values())))
        users, items = split_nodes(torch.cat([users, items]) + local + self.alpha * attributes, self.data.n_users)
        return users, items, hyper

    def embed(self) -> tuple[Tensor, Tensor]:
        """Collaborative, local and global embeddings added."""
        return self._embed()[:2]

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, contrast of the modalities' hypergraphs, norm of the final embeddings."""
        all_users, all_items, hyper = self._embed()
        u, p, n = all_users[users], all_items[positives], all_items[negatives]
        parts = {"bpr": bpr(u, p, n)}
        pairs = list(combinations(hyper.values(), 2))
        for side, (name, rows) in enumerate((("user", users), ("item", positives))):
            terms = [info_nce_among(a[side][rows], b[side], rows, self.temperature) for a, b in pairs]
            parts[f"contrastive_{name}"] = self.cl_weight * sum(terms, u.new_zeros(()))
        return parts | {"reg": self.reg_weight * embedding_norm(*map(all_rows, (u, p, n)))}
