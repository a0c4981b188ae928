"""PGL: FREEDOM's graphs with features instead of item ids, and a contrast of two dropout masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.losses import bpr, info_nce
from recbole_mambarec.layers.noise import row_dropout
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.pruning import PrunedRecommender


class PGL(PrunedRecommender):
    """PGL, "Mind Individual Information! Principal Graph Learning for Multimedia Recommendation" (AAAI 2025).

    An item is the concatenation of its projected, normalised features, a user that of one free vector per modality.
    LightGCN trains on a principal subgraph and is evaluated on the whole graph. ``subgraph: local``, the better form:
    30 % of the edges, drawn anew in every epoch; ``global``: the graph that the leading singular vectors rebuild, made
    once, without the published code's dense product over all nodes. Items are also spread over FREEDOM's frozen item
    graph. A contrastive term makes users and items recognise themselves under another dropout mask.

    Readings of the published code (MMRec): its ``reg_weight`` is the weight of the contrastive term (``cl_weight``
    here), its ``dropout`` the rate of those masks (``dropout_prob``); there is no L2 term; as many singular vectors as
    ``embedding_size`` are sought for the global graph, and a quarter of them kept.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(0, 9), items=(0, 7), batch=(0, 16))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        if config["subgraph"] not in ("local", "global"):
            raise UserError(f"subgraph '{config['subgraph']}' is unknown: use local or global")
        if config["subgraph"] == "global":
            self.prune_rate = 0.0
            try:
                self.training_graph = data.principal_bipartite(d)
            except ValueError as error:
                raise UserError(f"subgraph global: {error}; use subgraph local") from None
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.cl_weight, self.temperature = config["cl_weight"], config["temperature"]
        self.user_embedding = nn.ModuleDict({m: self.id_embedding(data.n_users) for m in self.modalities})
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.dropout_prob = config["dropout_prob"]
        self.item_graph = data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN of features and preferences, plus the features spread over the item graph; width d per modality."""
        items = [F.normalize(self.projection[m](self.features[m]()).float(), dim=1) for m in self.modalities]
        items = torch.cat(items, dim=1)
        users = torch.cat([self.user_embedding[m].weight for m in self.modalities], dim=1)
        users, propagated = light_gcn(self.graph, users, items, self.n_ui_layers)
        return users, propagated + propagate(self.item_graph, items, self.n_mm_layers)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and users and items against themselves under two dropout masks."""
        all_users, all_items = self.embed()
        u, p = all_users[users], all_items[positives]
        masked = [[row_dropout(x, self.dropout_prob, self.training) for _ in range(2)] for x in (u, p)]
        contrast = sum(info_nce(*pair, self.temperature) for pair in masked) / 2
        return {"bpr": bpr(u, p, all_items[negatives]), "contrastive": self.cl_weight * contrast}
