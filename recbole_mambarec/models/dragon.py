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

    Each modality m has user preferences and mapped item features, spread over the user-item graph: nodes X_m. They
    stand side by side; a user weighs them. Users receive from those who share most items with them (graph G), items
    from FREEDOM's item graph S::

        user = r + G r,  r = [w_u1 X_1[u] | w_u2 X_2[u] | ...];    item = x + S^n x,  x = [X_1[i] | X_2[i] | ...]

    Of the published code's ways to join modalities (MMRec) this is the one that it uses.
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
