"""DRAGON: DualGNN's branches side by side, with a graph of users and a graph of items on top."""

from __future__ import annotations

from torch import Tensor

from recbole_mambarec.layers.propagation import propagate, split_nodes
from recbole_mambarec.layers.user_graph import UserGraph
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.branches import BranchRecommender


class DRAGON(BranchRecommender):
    """DRAGON, "Enhancing Dyadic Relations with Homogeneous Graphs for Multimodal Recommendation" (ECAI 2023, arXiv
    2301.12097).

    Each modality has user preferences and mapped item features, which spread over the user-item graph. The results
    stand side by side, and a user weighs them. Users also receive from the users who share most items with them, and
    items over FREEDOM's item graph.

    Final embeddings and loss, with w_m the users' weights of modality m, which are trained::

        Z_m = (1 + A + A^2) unit([P_m; MLP_m(F_m)])
        user = r + C r,   r = [w_1 Z_1u | ... | w_M Z_Mu]
        item = x + S^n x,   x = [Z_1i | ... | Z_Mi]
        loss = BPR / ln 2 + reg_weight (sum_m mean(P_m^2) + mean(w^2))

    The weights in the loss are those of all users. The published code (MMRec) has several ways to join modalities; this
    is the one that it uses.
    """

    step_memory = StepMemory(users=(0, 12), items=(2, 13), batch=(1, 8))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.n_mm_layers = config["n_mm_layers"]
        self.user_graph = UserGraph(self.data.co_users(config["user_knn_k"]))
        self.item_graph = self.data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])

    def pre_epoch(self, epoch: int) -> None:
        """Draw the repeated neighbours of this epoch."""
        self.user_graph.redraw()

    def embed(self) -> tuple[Tensor, Tensor]:
        """Branches side by side, with what the user graph and the item graph add."""
        nodes = self._side_by_side(list(self._modal_nodes().values()))
        users, items = split_nodes(nodes, self.data.n_users)
        return users + self.user_graph(users), items + propagate(self.item_graph, items, self.n_mm_layers)
