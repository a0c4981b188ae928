"""DualGNN: preferences per modality, weighed by each user, and a graph of users who share items."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from recbole_mambarec.layers.user_graph import UserGraph
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import variant_of
from recbole_mambarec.models.branches import BranchRecommender


class DualGNN(BranchRecommender):
    """DualGNN, "Dual Graph Neural Network for Multimedia Recommendation" (TMM 2023, doi 10.1109/TMM.2021.3138298).

    Each modality has user preferences and mapped item features, which spread over the user-item graph. A user weighs
    the modalities and then receives from the users who share most items with them; an item is the sum over its
    modalities.

    Final embeddings and loss, with w_m the users' weights of modality m, which are trained::

        Z_m = (1 + A + A^2) unit([P_m; MLP_m(F_m)])
        user = r + C r,   r = w_1 (Z_1u + ... + Z_Mu) + w_2 Z_2u + ... + w_M Z_Mu
        item = Z_1i + ... + Z_Mi
        loss = BPR / ln 2 + reg_weight (sum_m mean(P_m^2) + mean(w^2))

    The weights in the loss are those of all users.

    The published code (MMRec) makes the sum over modalities in place in the first of them, hence the first term of r;
    with ``variant: paper``, r is ``w_1 Z_1u + ... + w_M Z_Mu``. The published code's weights of items are in its loss
    alone, without effect on a score, and left out here.
    """

    step_memory = StepMemory(users=(4, 7), items=(4.5, 11.5), batch=(5.5, 3))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.sums_in_place = variant_of(config) == "released"
        self.user_graph = UserGraph(self.data.co_users(config["user_knn_k"]))

    def pre_epoch(self, epoch: int) -> None:
        """Draw the repeated neighbours of this epoch."""
        self.user_graph.redraw()

    def embed(self) -> tuple[Tensor, Tensor]:
        """Users weigh the modalities and receive from similar users; items are the sum of theirs."""
        n_users, nodes = self.data.n_users, list(self._modal_nodes().values())
        total = cast(Tensor, sum(nodes))
        if self.sums_in_place:
            nodes[0] = total
        users = sum(self.user_weight[:, m, None] * x[:n_users] for m, x in enumerate(nodes))
        return users + self.user_graph(users), total[n_users:]
