"""GRCN: user-item edges weighed by how well the features of their ends agree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.layers.attention import EdgePattern
from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of


class GRCN(MultimodalRecommender):
    """GRCN, "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback" (MM 2020, arXiv
    2111.02036).

    In each modality, user preferences and projected features attend to each other along the edges. An edge weighs as
    much as the largest product, over modalities, of that attention and the confidence of the sending node, or 0 if that
    is negative. Ids take two hops over those weights and stand beside what the attention gives in each modality.

    Final embeddings and loss, with a_m the attention of users to their items and b_m of items to their users, q_m the
    confidences of the nodes, and G the matrix of all edges w_ui and w_iu::

        p_m = unit(P_m);   x_m = unit(leaky(X_m))
        a_m = softmax_i(p_m . x_m);   b_m = softmax_u(x_m . p_m)
        w_ui = max(0, max_m a_m,ui q_mi);   w_iu = max(0, max_m b_m,iu q_mu)
        Z = (1 + G + G^2) unit([U; I])
        user = [Z_u | p_1 + a_1 x_1 | ... | p_M + a_M x_M]
        item = [Z_i | x_1 + b_1 p_1 | ... | x_M + b_M p_M]
        loss = BPR + reg_weight (mean(U^2) + mean(I^2) + mean(P_1^2) + sum_m mean(P_m^2))

    The published code has three quirks. Its routing rounds, meant to build a user's prototype from their items, send
    nothing to users, so that preferences stay as they are (``variant: released``; ``paper`` does what the text says, in
    ``n_routing_rounds`` rounds). Preferences of the first modality are regularised twice, once as a whole table. A node
    whose confidences are all negative sends nothing and never recovers, as no gradient reaches them.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(8.5, 8.5), items=(10.5, 3.5), edges=(0, 0.2), batch=(8, 6.5))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, c, data = self.embedding_size, config["latent_embedding"], self.data
        self.reg_weight, self.n_routing_rounds = config["reg_weight"], config["n_routing_rounds"]
        self.variant = variant_of(config)
        n_nodes = data.n_users + data.n_items
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), c) for m in self.modalities})
        self.preference = nn.ParameterDict({m: nn.Parameter(torch.empty(data.n_users, c)) for m in self.modalities})
        self.node_ids = nn.Parameter(torch.empty(n_nodes, d))
        self.confidence = nn.Parameter(torch.empty(n_nodes, len(self.modalities)))
        maps = [projection.weight for projection in self.projection.values()]
        for weight in [*maps, *self.preference.values(), self.node_ids, self.confidence]:
            nn.init.xavier_normal_(weight)
        self.edges = EdgePattern(*data.pairs, (data.n_users, data.n_items))

    def _content(self, modality: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Users and items of a modality, and each edge's attention ``(E,)`` among its user's and its item's."""
        edges = self.edges
        items = unit_rows(F.leaky_relu(self.projection[modality](self.features[modality]())))
        users = unit_rows(self.preference[modality])
        if self.variant == "paper":
            for _ in range(self.n_routing_rounds):
                shares = edges.softmax(edges.dots(users, items), over="rows")
                users = unit_rows(users + edges.propagate(shares, items))
        scores = edges.dots(users, items)
        user_attention, item_attention = edges.softmax(scores, over="rows"), edges.softmax(scores, over="columns")
        received = edges.propagate(user_attention, items), edges.propagate(item_attention, users, transposed=True)
        return users + received[0], items + received[1], user_attention, item_attention

    def _ids(self, to_user: Tensor, to_item: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the ids after no, one and two hops over edges of these weights."""
        users, items = unit_rows(self.node_ids).split([self.data.n_users, self.data.n_items])
        totals = users, items
        for _ in range(2):
            users, items = (
                self.edges.propagate(to_user, items),
                self.edges.propagate(to_item, users, transposed=True),
            )
            totals = totals[0] + users, totals[1] + items
        return totals

    def embed(self) -> tuple[Tensor, Tensor]:
        """Ids propagated over the refined edges, beside the content of each modality."""
        contents = (self._content(m) for m in self.modalities)
        users, items, user_attention, item_attention = (list(x) for x in zip(*contents))
        user_confidence, item_confidence = self.confidence.split([self.data.n_users, self.data.n_items])
        # the sending node's confidence counts: items send to users, users to items
        to_user = torch.stack(user_attention, dim=1) * item_confidence[self.edges.columns]
        to_item = torch.stack(item_attention, dim=1) * user_confidence[self.edges.rows]
        ids = self._ids(*(weights.max(dim=1).values.relu() for weights in (to_user, to_item)))
        return torch.cat([ids[0], *users], dim=1), torch.cat([ids[1], *items], dim=1)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and mean squares of ids and preferences."""
        all_users, all_items = self.embed()
        # a user occurs twice in the published batch, with the positive and with the negative item
        nodes = (users, positives + self.data.n_users, negatives + self.data.n_users)
        ids = [self.node_ids[rows].square().mean() for rows in nodes]
        table = self.preference[self.modalities[0]].square().mean()
        rows = {m: self.preference[m][users].square().mean() for m in self.modalities}
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]),
            "reg_id": self.reg_weight * (ids[0] + (ids[1] + ids[2]) / 2),
            "reg_preference": self.reg_weight * table,
            **{f"reg_preference_{m}": self.reg_weight * value for m, value in rows.items()},
        }
