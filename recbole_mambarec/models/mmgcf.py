"""MMGCF: LightGCN whose items are joined with their features, in one of several ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr, l2_half
from recbole_mambarec.layers.propagation import light_gcn
from recbole_mambarec.layers.rows import processes
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.pruning import PrunedRecommender
from recbole_mambarec.value_checks import check_choice

MODES = ("mean", "sum", "concat")
WEIGHTINGS = ("equal", "alpha", "normalized")


class MMGCF(PrunedRecommender):
    """MMGCF, Multimodal Graph Collaborative Filtering, of which there is no paper: it is part of the library "MMRec:
    Simplifying Multimodal Recommendation" (MM Asia Workshops 2023, arXiv 2302.03497).

    LightGCN spreads ids over a draw of the edges that is fresh in every epoch. After it, items are joined with their
    projected features; users are LightGCN's. ``fusion_mode`` joins a list by its mean, its sum, or a linear map of its
    concatenation, and ``weighting`` says what is in the list.

    Final embeddings and loss, where A has only the drawn edges in training, and join is the mean, as by default::

        user = H_u;   item = join(H_i, join(X_1, ..., X_M))
        loss = BPR + reg_weight L2(U, I)

    The other weightings, with a the sigmoid of one learnt number::

        alpha:       item = join(a H_i, (1 - a) X_1, ..., (1 - a) X_M)
        normalized:  item = join(M unit(H_i), unit(X_1), ..., unit(X_M))
    """

    min_modalities = 1
    step_memory = StepMemory(users=(9, 0.5), items=(9, 0.5), batch=(7.5, 0.5))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, width, count = self.embedding_size, config["feat_embed_dim"] or self.embedding_size, len(self.modalities)
        self.n_ui_layers, self.reg_weight = config["n_ui_layers"], config["reg_weight"]
        self.mode = check_choice("fusion_mode", config["fusion_mode"], MODES)
        self.weighting = check_choice("weighting", config["weighting"], WEIGHTINGS)
        if self.mode != "concat" and width != d:
            raise UserError(
                f"fusion_mode {self.mode} adds features of width feat_embed_dim {width} to ids of width embedding_size "
                f"{d}: make them equal, or use fusion_mode concat"
            )
        self.user_embedding = self.id_embedding(self.data.n_users)
        self.item_embedding = self.id_embedding(self.data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = ModuleDict({m: nn.Linear(self.feature_dim(m), width) for m in self.modalities})
        self.alpha = nn.Parameter(torch.zeros(())) if self.weighting == "alpha" else None
        self.join_features = self.join_items = None
        if self.mode == "concat" and self.weighting == "equal":
            self.join_features = nn.Linear(count * width, width)
            self.join_items = nn.Linear(d + width, d)
        elif self.mode == "concat":
            self.join_items = nn.Linear(d + count * width, d)

    def _join(self, parts: list[Tensor], linear: nn.Linear | None) -> Tensor:
        if linear is not None:
            return linear(torch.cat(parts, dim=1))
        stacked = torch.stack(parts)
        return stacked.mean(dim=0) if self.mode == "mean" else stacked.sum(dim=0)

    def _items(self, items: Tensor) -> Tensor:
        """Items joined with their features, ``(I, d)``."""
        features = [self.projection[m](self.features[m]()) for m in self.modalities]
        if self.weighting == "equal":
            return self._join([items, self._join(features, self.join_features)], self.join_items)
        if self.weighting == "alpha":
            share = torch.sigmoid(self.alpha)
            return self._join([share * items, *((1 - share) * x for x in features)], self.join_items)
        unit = [unit_rows(x) for x in (items, *features)]
        return self._join([len(features) * unit[0], *unit[1:]], self.join_items)

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN's users; its items with their features."""
        users, items = light_gcn(self.graph, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)
        return users, self._items(items)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and the squares of the batch's ids."""
        all_users, all_items = self.embed()
        ids = self.user_embedding(users), self.item_embedding(positives), self.item_embedding(negatives)
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]),
            "reg": self.reg_weight * l2_half(*ids, batch_size=len(users) * processes()),
        }
