"""MENTOR: branches per modality, aligned with their fusion by moments, and made robust by noisy twins."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleDict, ModuleList
from recbole_mambarec.layers.losses import moment_gap, node_table_nce
from recbole_mambarec.layers.propagation import propagate, split_nodes
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.branches import BranchRecommender

_TWINS = 2


class MENTOR(BranchRecommender):
    """MENTOR, "Multi-level Self-supervised Learning for Multimodal Recommendation" (AAAI 2025, arXiv 2402.19407).

    Each modality m has user preferences and mapped item features, spread over the user-item graph: nodes X_m. Users
    weigh them, they stand side by side, and items also receive from FREEDOM's item graph S::

        F = [w_1 X_1 | w_2 X_2 | ...];    user = F[u],  item = F[i] + S^n F[i]

    A branch on item ids gives the guide ``[X_id | X_id | ...]``. Guide, F and each modality (repeated to the same
    width) are aligned pair by pair in mean and variance over all entries
    (:func:`~recbole_mambarec.layers.losses.moment_gap`). Two noisy twins of every branch, with their own parameters,
    give two more views like F, which a contrast over *all* users and *all* items ties together. Scores use F alone.

    Readings of the published code: a user graph is loaded and never used; the term that masks features has no gradient
    at all and is left out, along with its keys ``mask_weight_f`` and ``dropout``.
    """

    uses_ids_of_new_items = False  # scores use F alone
    step_memory = StepMemory(users=(3.5, 34.5), items=(16, 52.5), edges=(0.2, 1), batch=(3, 10.5))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.n_mm_layers, self.align_weight = config["n_mm_layers"], config["align_weight"]
        self.cl_weight, self.temperature = config["cl_weight"], config["temperature"]
        self.item_embedding = nn.Parameter(torch.empty(self.data.n_items, self.embedding_size))
        nn.init.xavier_normal_(self.item_embedding)
        self.id_branch = self._branch(self.embedding_size)
        self.twins = ModuleList(
            ModuleDict({m: self._branch(self.feature_dim(m)) for m in self.modalities}) for _ in range(_TWINS)
        )
        self.item_graph = self.data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])

    def _spread(self, nodes: Tensor) -> Tensor:
        """Nodes whose items have received from the item graph, ``(U + I, d)``."""
        users, items = split_nodes(nodes, self.data.n_users)
        return torch.cat([users, items + propagate(self.item_graph, items, self.n_mm_layers)])

    def _fused(self, modal: dict[str, Tensor]) -> Tensor:
        return self._spread(self._side_by_side(list(modal.values())))

    def _views(self, modal: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fusion, guide and modalities, all of the fusion's width."""
        single = {"guide": self.id_branch(self.item_embedding, self.bipartite)} | {
            f"modal {m}": x for m, x in modal.items()
        }
        return {"fused": self._fused(modal)} | {
            name: self._spread(x).repeat(1, len(self.modalities)) for name, x in single.items()
        }

    def _noisy_views(self) -> list[Tensor]:
        """Two fusions of noisy branches."""
        return [
            self._fused({m: twin[m](self.features[m](), self.bipartite, noisy=True) for m in self.modalities})
            for twin in self.twins
        ]

    def embed(self) -> tuple[Tensor, Tensor]:
        """The fusion."""
        return split_nodes(self._fused(self._modal_nodes()), self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Ranking and regulariser; moments of all pairs of views; contrast of the noisy ones."""
        views = self._views(self._modal_nodes())
        parts = self._ranking_loss(*split_nodes(views["fused"], self.data.n_users), users, positives, negatives)
        gaps = [moment_gap(a, b) for a, b in combinations(views.values(), 2)]
        first, second = (split_nodes(view, self.data.n_users) for view in self._noisy_views())
        contrast = sum(node_table_nce(a, b, self.temperature) for a, b in zip(first, second))
        return parts | {"align": self.align_weight * sum(gaps), "contrastive": self.cl_weight * contrast}
