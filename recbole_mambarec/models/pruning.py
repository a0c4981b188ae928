"""Models that train on a fresh draw of edges in every epoch and are evaluated on all edges."""

from __future__ import annotations

from recbole_mambarec.data.graphs.bipartite import n_edges_kept
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.errors import UserError
from recbole_mambarec.models.base import MultimodalRecommender


class PrunedRecommender(MultimodalRecommender):
    """Degree-sensitive edge pruning (FREEDOM): key ``prune_rate`` is the share of edges dropped in each epoch."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.prune_rate = config["prune_rate"]
        if not 0 <= self.prune_rate < 1:
            raise UserError(f"prune_rate must be at least 0 and below 1, got {self.prune_rate}")
        n_edges = len(self.data.pairs[0])
        if not n_edges_kept(n_edges, self.prune_rate):
            raise UserError(
                f"prune_rate {self.prune_rate} leaves none of the {n_edges} training edges: use a smaller one"
            )
        self.bipartite = self.training_graph = self.data.bipartite

    def pre_epoch(self, epoch: int) -> None:
        """Draw this epoch's edges."""
        if self.prune_rate > 0:
            self.training_graph = self._draw_graph(epoch).to(self.device)

    def _draw_graph(self, epoch: int) -> SparseGraph:
        """The user-item graph of an epoch."""
        return self.data.pruned_bipartite(self.prune_rate)

    @property
    def graph(self) -> SparseGraph:
        """The user-item graph of the current mode: pruned in training, whole in evaluation."""
        return self.training_graph if self.training else self.bipartite
