"""SOIL: MGCN on graphs that also follow the interests of users."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.losses import bpr, info_nce
from recbole_mambarec.layers.propagation import item_view
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import variant_of
from recbole_mambarec.models.soil_graphs import Interest, symmetric_with_floor
from recbole_mambarec.models.views import TwoViewRecommender, UnfusedViews

# raise it when a graph changes, so that one that is kept on disk is not taken for it
GRAPHS_VERSION = 1


class SOIL(TwoViewRecommender):
    """SOIL, "Contrastive Second-Order Interest Learning for Multimodal Recommendation" (MM 2024).

    MGCN's views without its preference gates, on wider graphs (:mod:`~recbole_mambarec.models.soil_graphs`). The item
    graph of each modality is its kNN graph plus the interest graph, which links a user's items with candidates like
    them; the user-item graph is the usual one plus half the second-order graph, which links users with items that
    resemble one of theirs in all modalities. MGCN's contrast of the two views is joined by one of users with their
    items.

    Final embeddings and loss, with A and S_m these graphs::

        V_m = S_m^n (I * sigma(X_m W_m));   z_m = [A_u V_m; V_m]
        c = sum_m softmax_m(q . tanh(z_m W)) z_m;   Z = (c + sum_m (z_m - c)) / (M + 1)
        [user; item] = H + Z
        loss = BPR + cl_weight (InfoNCE(Z_u, H_u) + InfoNCE(Z_i, H_i))
               + user_cl_weight (InfoNCE(user, H_i) + InfoNCE(user, Z_i))

    As in the published code, no stored entry of a graph is smaller than 1e-7 after normalisation, and there is no L2
    term. In the second-order graph, the block of A that carries features to users scales item j with the degree of
    *user* j (``variant: released``, which needs as many users as items; ``paper`` takes the degree of item j). Among
    equal neighbours at the end of a list, which one counts is arbitrary.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(9, 1), items=(10, 3.5), batch=(14.5, 13))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.user_cl_weight = config["user_cl_weight"]
        self.released = variant_of(config) == "released"
        if self.released and data.n_users < data.n_items:
            raise UserError(
                "SOIL's variant released scales items with degrees of users and needs as many users as items, there "
                f"are {data.n_users} and {data.n_items}: use variant paper"
            )
        self.projection = self._projections()
        self.item_gate = ModuleDict({m: nn.Linear(d, d) for m in self.modalities})
        self.fusion = BehaviourGuidedFusion(d, self.modalities, gated=False)
        interests, second = self._interest(config["interest_k"], config["second_order_k"])
        self.item_graph = ModuleDict(
            {
                m: SparseGraph(self._knn(m, config["knn_k"]) + symmetric_with_floor(interests[m]))
                for m in self.modalities
            }
        )
        self.bipartite, self.user_item = self._user_item_graphs(second)

    def _knn(self, modality: str, k: int) -> sp.csr_array:
        rows, columns, cosines = self.data.neighbours(modality, k).edges()
        shape = (self.data.n_items, self.data.n_items)
        return symmetric_with_floor(sp.csr_array((cosines, (rows, columns)), shape=shape))

    def _interest(self, k: int, second_order_k: int) -> tuple[dict[str, sp.csr_array], sp.csr_array]:
        """Interest graph of each modality and the second-order graph, not normalised; kept on disk."""
        data = self.data

        def build() -> dict[str, np.ndarray]:
            features = {m: data.features(m)[:] * data.present(m)[:, None] for m in self.modalities}
            found = Interest(data.users, data.items, data.n_users, data.n_items, features, data.shows_progress)
            graphs = found.item_graphs(k) | {"second order": found.second_order(second_order_k)}
            parts = {"values": "data", "columns": "indices", "rows": "indptr"}
            return {f"{part} of {name}": getattr(g, a) for name, g in graphs.items() for part, a in parts.items()}

        key = {"k": k, "second_order_k": second_order_k, "version": GRAPHS_VERSION}
        arrays = data.kept("interest", key, build)
        shapes = dict.fromkeys(self.modalities, (data.n_items, data.n_items))
        graphs = {
            name: sp.csr_array(
                tuple(arrays[f"{part} of {name}"] for part in ("values", "columns", "rows")), shape=shape
            )
            for name, shape in {**shapes, "second order": (data.n_users, data.n_items)}.items()
        }
        return {m: graphs[m] for m in self.modalities}, graphs["second order"]

    def _user_item_graphs(self, second: sp.csr_array) -> tuple[SparseGraph, SparseGraph]:
        whole = symmetric_with_floor(sp.block_array([[None, second], [second.T, None]], format="csr"))
        block = whole[: self.data.n_users, self.data.n_users :]
        if self.released:
            of_users = np.asarray(second.astype(np.float64).sum(axis=1))
            block = symmetric_with_floor(second, of_users[: self.data.n_items])
        bipartite = SparseGraph(self.data.bipartite.scipy() + 0.5 * whole, symmetric=True)
        return bipartite, SparseGraph(self.data.user_item.scipy() + 0.5 * block)

    def _unfused(self) -> UnfusedViews:
        modal = {}
        for m in self.modalities:
            gate = torch.sigmoid(self.item_gate[m](self.projection[m](self.features[m]())))
            modal[m] = item_view(
                self.item_graph[m], self.user_item, self.item_embedding.weight * gate, self.n_mm_layers
            )
        return UnfusedViews(self._behaviour(), modal)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, the contrast of the two views, and that of users with their items."""
        of_users, of_positives, of_negatives = self._views_of_batch(self._unfused(), users, positives, negatives)
        u, p, n = (view.behaviour + view.side for view in (of_users, of_positives, of_negatives))
        with_items = sum(info_nce(u, view, self.temperature) for view in of_positives)
        return {
            "bpr": bpr(u, p, n),
            "contrastive": self.cl_weight * self._contrast(of_users, of_positives),
            "contrastive_users": self.user_cl_weight * with_items,
        }
