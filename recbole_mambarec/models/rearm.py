"""REARM: homogeneous graphs first, attention among coordinates, and what ids and content share, learnt by a network."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.features import FeatureTable
from recbole_mambarec.layers.losses import bpr, cross_correlation, info_nce_distinct
from recbole_mambarec.layers.propagation import mean_of_layers, propagate, split_nodes
from recbole_mambarec.layers.scalar_attention import ScalarAttention, weights_held
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models import rearm_graphs as graphs
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.value_checks import check_share

# what training holds of the weights of a modality's attentions: one bit of each
_ATTENTIONS, _WEIGHTS_PER_FLOAT = 2, 32


class MetaNetwork(nn.Module):
    """A matrix per node, made of what is known of it: ``(n, d) -> (n, rows, columns)``, softmax over the rows.

    Args:
        dim: width d of the input.
        rows, columns: shape of the matrices.
    """

    def __init__(self, dim: int, rows: int, columns: int) -> None:
        super().__init__()
        self.shape = rows, columns
        self.hidden, self.activation = nn.Linear(dim, rows * columns), nn.PReLU()
        self.output = nn.Linear(rows * columns, rows * columns)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs at length 1 plus their mean over all nodes."""
        made = unit_rows(self.output(self.activation(self.hidden(x)))).unflatten(1, self.shape)
        return (made + made.mean(dim=0)).softmax(dim=1)


class REARM(MultimodalRecommender):
    """REARM, "Refining Contrastive Learning and Homography Relations for Multi-Modal Recommendation" (MM 2025, arXiv
    2508.13745).

    Ids and projected features of items spread over an item graph, those of users over a user graph, both of similar
    content and shared interactions (:mod:`~recbole_mambarec.models.rearm_graphs`). Items' features attend to themselves
    and to the other modalities, coordinate by coordinate; then all spread over the user-item graph. Networks turn the
    features of a node into two thin matrices, which make of its ids what ids and features share.

    Final embeddings and loss, with T_u and T_i the user and the item graph, h = ``n_uu_layers``, act a PReLU and LN a
    LayerNorm that all share, and att the attention among coordinates
    (:class:`~recbole_mambarec.layers.scalar_attention.ScalarAttention`)::

        [e | x_1 | ... | x_M] = [unit(T_u^h [U | D_u^-1 R F_1 W_1 | ...]); unit(T_i^n [I | X_1 | ...])]
        v_m = act(LN(x_mi + att(x_mi, x_mi)))
        z_mi = act(LN(v_m + att(mean_(k != m) v_k, v_m)));   z_mu = act(x_mu)
        [Z_0 | Z_1 | ... | Z_M] = LightGCN([e | z_1 | ... | z_M])
        [user; item] = [act(Z_1) + Z_0 | ... | act(Z_M) + Z_0 | act(Z_0 a b) + Z_0]
        loss = BPR + sum_(m<k) (cl_weight InfoNCE(Z_m, Z_k) + diff_weight mean(corr(Z_m, Z_k)^2))

    The matrices a and b of a node are what the networks make of its ``[Z_1 | ... | Z_M]``. InfoNCE is over the distinct
    users and the distinct items of the batch; corr are the products of all pairs of coordinates, i.e. what two
    modalities have in common linearly. A user's raw features are the mean of those of their items, from which training
    moves them like the items' (``freeze_features: False``).

    As in the published code, the networks' input is cut from the gradient *behind* the map of features, which therefore
    keeps its initial values, and a node with few neighbours has some of them repeated. The published sampler never
    draws a user's validation and test items as negatives, which tells the model a little of what it is tested on;
    ``negatives_skip_held_out: True`` does the same, for comparison with the published figures alone.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(28, 12), items=(40, 26), batch=(20, 20))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data, modalities = self.embedding_size, self.data, self.modalities
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.n_uu_layers, self.temperature = config["n_uu_layers"], config["temperature"]
        self.cl_weight, self.diff_weight = config["cl_weight"], config["diff_weight"]
        self.user_embedding, self.item_embedding = nn.Embedding(data.n_users, d), nn.Embedding(data.n_items, d)
        for table in (self.user_embedding, self.item_embedding):
            nn.init.normal_(table.weight, std=0.1)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.interests = ModuleDict(
            {m: FeatureTable(graphs.interests(data, m), config["freeze_features"]) for m in modalities}
        )
        self.item_projection, self.user_projection = (
            ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in modalities}) for _ in range(2)
        )
        for layer in [*self.item_projection.values(), *self.user_projection.values()]:
            nn.init.xavier_normal_(layer.weight)
        self.norm, self.activation = nn.LayerNorm(d), nn.PReLU()
        self.self_attention = ModuleDict({m: ScalarAttention(config["self_dropout"]) for m in modalities})
        self.mutual_attention = ModuleDict(
            {m: ScalarAttention(config["mutual_dropout"]) for m in (modalities if len(modalities) > 1 else ())}
        )
        self.meta_input = ModuleDict({s: nn.Linear(len(modalities) * d, d) for s in ("user", "item")})
        # no gradient comes back to it in the published code
        self.meta_input.requires_grad_(False)
        rank = config["rank"]
        self.meta_in = ModuleDict({s: MetaNetwork(d, d, rank) for s in ("user", "item")})
        self.meta_out = ModuleDict({s: MetaNetwork(d, rank, d) for s in ("user", "item")})
        self.bipartite = data.bipartite
        self.user_graph, self.item_graph = self._user_graph(config), self._item_graph(config)

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory``, tables of the users' interests, and attention weights, ``(d, d)`` per item."""
        (users, of_users), (items, of_items) = cls.step_memory.users, cls.step_memory.items
        d, frozen = config["embedding_size"], config["freeze_features"]
        widths = sum(data.features(m).shape[1] for m in data.modalities)
        users += (1.0 if frozen else cls.step_memory.tables) * widths / d
        items += weights_held(data.n_items, d, config["device"]) / (data.n_items * d)
        of_items += _ATTENTIONS * d / _WEIGHTS_PER_FLOAT
        return cls.step_memory._replace(users=(users, of_users), items=(items, of_items))

    def _user_graph(self, config) -> SparseGraph:
        k, data = config["user_knn_k"], self.data
        shares = data.modality_shares(config["user_image_weight"], "user_image_weight")
        lists = [graphs.user_neighbours(data, m, k) for m in self.modalities]
        activity = np.bincount(data.users, minlength=data.n_users)
        together = check_share("user_co_weight", config["user_co_weight"])
        return graphs.similar_and_shared(lists, shares, data.co_users(k), activity, together)

    def _item_graph(self, config) -> SparseGraph:
        k, data = config["knn_k"], self.data
        shares = data.modality_shares(config["mm_image_weight"])
        lists = [data.neighbours(m, k) for m in self.modalities]
        activity = np.bincount(data.items, minlength=data.n_items)
        together = check_share("item_co_weight", config["item_co_weight"])
        return graphs.similar_and_shared(lists, shares, data.co_items(k), activity, together)

    def _attended(self, parts: list[Tensor]) -> list[Tensor]:
        """Items' features after both attentions, ``(I, d)`` each."""
        own = [self.activation(self.norm(x + self.self_attention[m](x, x))) for m, x in zip(self.modalities, parts)]
        if len(own) == 1:
            return own
        others = [(sum(own) - x) / (len(own) - 1) for x in own]
        return [
            self.activation(self.norm(x + self.mutual_attention[m](other, x)))
            for m, x, other in zip(self.modalities, own, others)
        ]

    def _shared(self, modal: Tensor, ids: Tensor) -> Tensor:
        """What ids and features share, ``(U + I, d)``."""
        made, sides = [], ("user", "item")
        for side, features, x in zip(sides, *(split_nodes(view, self.data.n_users) for view in (modal, ids))):
            z = self.meta_input[side](features).detach()
            low = torch.einsum("nd,ndk->nk", x, self.meta_in[side](z))
            made.append(torch.einsum("nk,nkd->nd", low, self.meta_out[side](z)))
        return torch.cat(made)

    def _views(self) -> tuple[Tensor, Tensor]:
        """LightGCN's nodes of features, modalities side by side, and of ids: ``(U + I, M d)`` and ``(U + I, d)``."""
        user_features = (self.user_projection[m](self.interests[m]()) for m in self.modalities)
        item_features = (self.item_projection[m](self.features[m]()) for m in self.modalities)
        users = torch.cat([self.user_embedding.weight, *user_features], dim=1)
        items = torch.cat([self.item_embedding.weight, *item_features], dim=1)
        users = unit_rows(propagate(self.user_graph, users, self.n_uu_layers))
        items = unit_rows(propagate(self.item_graph, items, self.n_mm_layers))
        (user_ids, *user_parts), (item_ids, *item_parts) = (x.split(self.embedding_size, dim=1) for x in (users, items))
        modal = torch.cat(
            [torch.cat([self.activation(x) for x in user_parts], dim=1), torch.cat(self._attended(item_parts), dim=1)]
        )
        nodes = torch.cat([modal, torch.cat([user_ids, item_ids])], dim=1)
        spread = mean_of_layers(self.bipartite, nodes, self.n_ui_layers)
        return spread[:, : modal.shape[1]], spread[:, modal.shape[1] :]

    def _final(self, modal: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        parts = [*modal.split(self.embedding_size, dim=1), self._shared(modal, ids)]
        return split_nodes(torch.cat([self.activation(x) + ids for x in parts], dim=1), self.data.n_users)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Modalities and what is shared, each with the ids."""
        return self._final(*self._views())

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, contrast between modalities, and what they have in common linearly."""
        modal, ids = self._views()
        all_users, all_items = self._final(modal, ids)
        n_users, items = self.data.n_users, torch.cat([positives, negatives])
        contrast = difference = all_users.new_zeros(())
        for a, b in combinations(modal.split(self.embedding_size, dim=1), 2):
            for nodes, rows in ((items, items + n_users), (users, users)):
                contrast = contrast + info_nce_distinct(a[rows], b[rows], nodes, self.temperature)
            for rows in (users, positives + n_users):
                difference = difference + cross_correlation(a[rows], b[rows])
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]),
            "contrastive": self.cl_weight * contrast,
            "difference": self.diff_weight * difference,
        }
