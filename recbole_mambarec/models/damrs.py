"""DAMRS: denoised item graphs, a behaviour graph, and a ranking loss that trusts pairs as far as content does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bernoulli_divergence, mean_over_distinct, sums_and_listed_sums
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.models.damrs_graphs import behaviour_graph, denoised_graphs

# fixed in the published code
LISTED, TEMPERATURE, EPSILON = 10, 0.2, 1e-9
# similarities of a batch and all items that are held at a time, for each view
_SHARES_AT_A_TIME = 1 << 20


class DAMRS(MultimodalRecommender):
    """DA-MRS on LightGCN, "Improving Multi-modal Recommender Systems by Denoising and Aligning Multi-modal Content and
    User Feedback" (KDD 2024, arXiv 2406.12501).

    Item ids spread over an item graph per modality, whose links survive only if the items are similar in *all*
    modalities, and over a graph of the items that share most users (:mod:`~recbole_mambarec.models.damrs_graphs`).
    Features act through these graphs alone. The loss trusts a training pair as far as its content agrees with it.

    Final embeddings and loss, with v the views, i.e. the denoised graphs S_v of the modalities and that of shared
    users::

        h_v = S_v^n I;   h = mean_v h_v;   user = H_u;   item = H_i + h
        p_v = sigma(user . unit(h_v)) for the positive item;   n_v likewise for the negative one
        w+ = mean_v(p) exp(-2 var_v(p))
        w- = max(0, max_v(p) - mean(n)) where mean_v(p) < mean(n), else 0
        loss = mean(-w+ ln sigma(y) - w- ln sigma(-y)) + neighbor_weight N + kl_weight KL,
        y = s(u, i) - s(u, j)

    * The weights w+ and w- trust the pair as it stands, or turned around. They carry no gradient; mean(n) is over all
      views and the whole batch.
    * N: in each view an item should resemble two lists of ten neighbours, those most similar in all views and the next
      ones in this view. The lists may hold the item itself, and no gradient passes through the choice.
    * KL: the mean of ``(sigma(a) - sigma(b)) (a - b)`` over users and items of the batch, where ``a = user .
      unit(H_i)`` and ``b = user . unit(h)``. It is the divergence between users' preferences for LightGCN's items and
      for h.

    As in the published code, the graph of shared users does not weigh its links by how many users are shared.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(7.5, 0), items=(15, 2.5), batch=(23, 6), tables=0)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        data = self.data
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.neighbor_weight, self.kl_weight = config["neighbor_weight"], config["kl_weight"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.bipartite = data.bipartite
        self.item_graph = ModuleDict(denoised_graphs(data, config["knn_k"]))
        self.behaviour = self.branch_name("behaviour")
        self.item_graph[self.behaviour] = behaviour_graph(data, config["behaviour_k"])

    def _views(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """LightGCN's users and items, and item ids after each item graph."""
        ids = self.item_embedding.weight
        users, items = light_gcn(self.bipartite, self.user_embedding.weight, ids, self.n_ui_layers)
        return users, items, {name: propagate(g, ids, self.n_mm_layers) for name, g in self.item_graph.items()}

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN's users; its items plus the mean of the views."""
        users, items, views = self._views()
        return users, items + sum(views.values()) / len(views)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Weighted BPR, neighbours across views, and the divergence of behaviour and content."""
        all_users, items, views = self._views()
        content = torch.stack(list(views.values())).mean(dim=0)
        u, final = all_users[users], items + content
        margin = (u * (final[positives] - final[negatives])).sum(dim=1)
        trusted, doubted = self._trust(u.detach(), views, positives, negatives)
        # ln sigmoid as the negative softplus, which does not underflow
        ranking = trusted * F.softplus(-margin) + doubted * F.softplus(margin)
        batch = torch.cat([positives, negatives])
        # sums of exponentials, of which small differences count, are no matter for 16 bits
        with torch.autocast(batch.device.type, enabled=False):
            neighbours = sum(self._neighbour_terms(views, batch)) / len(views)
        sides = u, unit_rows(items)[batch], unit_rows(content)[batch]
        return {
            "bpr": ranking.mean(),
            "neighbours": self.neighbor_weight * neighbours,
            "kl": self.kl_weight * bernoulli_divergence(*sides, users, batch),
        }

    @torch.no_grad()
    def _trust(
        self, u: Tensor, views: dict[str, Tensor], positives: Tensor, negatives: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weights of a pair as it stands and turned around, ``(B,)`` each."""
        unit = [unit_rows(view) for view in views.values()]
        p, n = (
            torch.stack([(u * x[rows]).sum(dim=1).sigmoid() for x in unit], dim=1) for rows in (positives, negatives)
        )
        trusted = (p.mean(dim=1) * torch.exp(-2 * p.var(dim=1))).clamp(0, 1)
        threshold = all_rows(n).mean()
        doubted = (p.amax(dim=1) - threshold).clamp(0, 1).where(p.mean(dim=1) < threshold, 0.0)
        return trusted, doubted

    def _neighbour_terms(self, views: dict[str, Tensor], batch: Tensor) -> list[Tensor]:
        """How badly the items of a batch resemble, in each view, their neighbours in all; repeats count once."""
        unit = {name: unit_rows(view) for name, view in views.items()}
        lists = self._lists({name: x.detach() for name, x in unit.items()}, batch)
        terms = []
        for name, x in unit.items():
            total, common, single = sums_and_listed_sums(x[batch], x, lists[name], TEMPERATURE)
            # nothing is left beyond the common ones in a catalogue of ten items
            rest = (total - common).clamp_min(EPSILON)
            rows = -torch.log(common / total + EPSILON) - torch.log(single / rest + EPSILON)
            terms.append(mean_over_distinct(rows, batch))
        return terms

    @torch.no_grad()
    def _lists(self, unit: dict[str, Tensor], batch: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """For each view the items most similar in all of them, and the next ones in it, ``(rows, 10)`` each."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in unit}
        step = max(1, _SHARES_AT_A_TIME // self.data.n_items)
        k = min(LISTED, self.data.n_items)
        for rows in batch.split(step):
            shares = {name: (x[rows] @ x.T).softmax(dim=1) for name, x in unit.items()}
            total = sum(shares.values())
            for name, share in shares.items():
                common = (total + share).topk(k, dim=1).indices
                found[name].append((common, share.scatter(1, common, 0.0).topk(k, dim=1).indices))
        joined = {name: [torch.cat(parts) for parts in zip(*blocks)] for name, blocks in found.items()}
        return {name: (common, single) for name, (common, single) in joined.items()}
