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

    Each modality has user preferences and mapped item features, which spread over the user-item graph. The results
    stand side by side, users weigh them, and items also receive over FREEDOM's item graph. Two self-supervised terms
    are added: the fusion, each modality and a guide made of item ids are aligned in mean and variance, and two noisy
    twins of the fusion are contrasted.

    Final embeddings and loss, with w_m the users' weights of modality m, which are trained::

        Z_m = (1 + A + A^2) unit([P_m; MLP_m(F_m)])
        user = [w_1 Z_1u | ... | w_M Z_Mu];   item = x + S^n x,   x = [Z_1i | ... | Z_Mi]
        loss = BPR / ln 2 + reg_weight (sum_m mean(P_m^2) + mean(w^2))
               + align_weight sum_(v<t) gap(v, t)
               + cl_weight (InfoNCE(user', user'') + InfoNCE(item', item''))

    In the third term, v and t are the fusion ``[user; item]``, the guide, and each modality, the last two repeated to
    the same width and with items spread over S; gap is the difference in mean plus that in variance over all entries
    (:func:`~recbole_mambarec.layers.losses.moment_gap`). The guide is a branch like Z_m on item ids. The twins ' and ''
    have parameters of their own and noise after each hop; InfoNCE is over *all* users and *all* items. The weights in
    the second term are those of all users. Scores use the fusion alone.

    The published code loads a user graph and never uses it; its term that masks features has no gradient at all and is
    left out here, along with the keys ``mask_weight_f`` and ``dropout``.
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
