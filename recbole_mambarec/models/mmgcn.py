"""MMGCN: one graph network per modality, averaged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.layers.propagation import split_nodes
from recbole_mambarec.layers.tables import DrawnTable
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of

N_LAYERS = 3


class Tower(nn.Module):
    """The network of one modality: three rounds of ``x <- leaky([mean of neighbours' xW | leaky(Ax) + id] G)``.

    Args:
        width: width of the nodes at the start; the first round maps them to ``dim``.
        dim: embedding width d.
        feature_dim: width of the raw features where a linear map brings them to ``width`` first, else None.
    """

    def __init__(self, width: int, dim: int, feature_dim: int | None) -> None:
        super().__init__()
        self.entry = None if feature_dim is None else nn.Linear(feature_dim, width)
        widths = [width] + [dim] * (N_LAYERS - 1)
        self.message = nn.ModuleList(nn.Linear(w, w, bias=False) for w in widths)
        self.own = nn.ModuleList(nn.Linear(w, dim) for w in widths)
        self.combine = nn.ModuleList(nn.Linear(w + dim, dim) for w in widths)
        # the published code leaves the entry and the later combinations at torch's default initialisation
        for layer in [*self.message, *self.own, self.combine[0]]:
            nn.init.xavier_normal_(layer.weight)

    def forward(self, graph: SparseGraph, preference: Tensor, features: Tensor, ids: Tensor) -> Tensor:
        """Nodes ``(U + I, d)``.

        Args:
            graph: ``(U + I, U + I)``, which gives every node the mean of its neighbours.
            preference: of the users, ``(U, width)``.
            features: of the items, ``(I, feature_dim)``, or ``(I, width)`` where there is no entry map.
            ids: of all nodes, ``(U + I, d)``.
        """
        items = features if self.entry is None else self.entry(features)
        x = unit_rows(torch.cat([preference, items]))
        for message, own, combine in zip(self.message, self.own, self.combine):
            received = F.leaky_relu(message(graph.propagate(x)))
            x = F.leaky_relu(combine(torch.cat([received, F.leaky_relu(own(x)) + ids], dim=1)))
        return x


class MMGCN(MultimodalRecommender):
    """MMGCN, "Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video" (MM 2019, doi
    10.1145/3343031.3351034).

    Every modality has its own user preferences and its own graph network (:class:`Tower`), in which nodes receive the
    means of their neighbours and see the ids of the nodes in every layer. A node's embedding is the mean over
    modalities.

    Final embeddings and loss, with N giving each node the mean of its neighbours, and the weights of each layer and
    modality their own::

        z_0 = unit([P_m; F_m]);   z_l = leaky([leaky(N z_(l-1) W) | leaky(z_(l-1) V) + [U; I]] Q)
        [user; item] = mean_m Z_m,   Z_m = z_3
        loss = BPR + reg_weight (mean(U^2) + mean(I^2) + mean(P_1^2))

    The modalities listed in ``latent_modalities`` (by default ``image``) are first mapped linearly to ``latent_dim``;
    the others enter at their own width. There are always three layers, always with concatenation. P_1 in the loss is
    the whole table.

    In the published code, ids and user preferences are random tensors that no optimizer sees. They stay as drawn, and
    ``reg_weight``, which weighs their squares (of the preferences only the first modality's), changes no trained
    weight. ``variant: released`` keeps that; ``paper`` trains them, as the text means it. Either way they are saved
    with the model here.
    """

    min_modalities = 1
    # arrays of width d; memory_of adds those that are as wide as the nodes at the start
    step_memory = StepMemory(users=(0, 19), items=(0, 19), batch=(5, 0))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.reg_weight, self.trains_ids = config["reg_weight"], variant_of(config) == "paper"
        self.node_ids = DrawnTable(data.n_users + data.n_items, d, self.trains_ids)
        self.preference = nn.ModuleDict()
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.towers = nn.ModuleDict()
        for m in self.modalities:
            mapped = m in config["latent_modalities"]
            width = config["latent_dim"] if mapped else self.feature_dim(m)
            self.towers[m] = Tower(width, d, self.feature_dim(m) if mapped else None)
            self.preference[m] = DrawnTable(data.n_users, width, self.trains_ids)
        self.mean_of_neighbours = data.mean_adjacency
        self.former_names = {"node_ids": "node_ids.weight"}
        self.former_names |= {f"preference_{m}": f"preference.{m}.weight" for m in self.modalities}

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory`` plus the arrays that are as wide as the nodes at the start, a mean over the modalities."""
        mapped, width = config["latent_modalities"], config["latent_dim"]
        widths = [width if m in mapped else data.features(m).shape[1] for m in data.modalities]
        share = sum(widths) / len(widths) / config["embedding_size"]
        trained = 3 if config["variant"] == "paper" else 0  # gradients and two moments
        (users, modal_users), (items, modal_items) = cls.step_memory.users, cls.step_memory.items
        return cls.step_memory._replace(
            users=(users + trained, modal_users + (6 + trained) * share),
            items=(items + trained, modal_items + 4.5 * share),
        )

    def embed(self) -> tuple[Tensor, Tensor]:
        """Mean of the towers."""
        towers = [
            self.towers[m](self.mean_of_neighbours, self.preference[m](), self.features[m](), self.node_ids())
            for m in self.modalities
        ]
        return split_nodes(sum(towers) / len(towers), self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and the mean squares of the batch's ids and of the first modality's preferences."""
        all_users, all_items = self.embed()
        # a user occurs twice in the published batch, with the positive and with the negative item
        nodes = (users, positives + self.data.n_users, negatives + self.data.n_users)
        ids = [self.node_ids()[rows].square().mean() for rows in nodes]
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]),
            "reg_id": self.reg_weight * (ids[0] + (ids[1] + ids[2]) / 2),
            "reg_preference": self.reg_weight * self.preference[self.modalities[0]]().square().mean(),
        }
