"""TMLP: MLPs instead of an item graph, which is in the loss alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr, listed_similarities, sums_of_exponentials
from recbole_mambarec.layers.propagation import split_nodes, sum_of_layers
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.models.tmlp_graph import most_informative
from recbole_mambarec.value_checks import check_choice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}
# the published code always makes two hops, whatever its n_ui_layers says
HOPS = 2


class GraphMLP(nn.Module):
    """Linear layers with one LayerNorm that all hidden layers share: ``(n, d) -> (n, d)``.

    Args:
        dim: width d of input and output.
        hidden_dim: width of the hidden layers.
        n_layers: linear layers, at least 2.
        activation: name of the function after each hidden layer.
        dropout: rate of dropout after each hidden layer.
    """

    def __init__(self, dim: int, hidden_dim: int, n_layers: int, activation: str, dropout: float) -> None:
        super().__init__()
        widths = [dim, *[hidden_dim] * (n_layers - 1), dim]
        layers = [nn.Linear(*pair) for pair in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.activation, self.dropout = ACTIVATIONS[activation], dropout

    def forward(self, x: Tensor) -> Tensor:
        """Hidden layers, then a linear one."""
        for layer in self.layers[:-1]:
            x = F.dropout(self.norm(self.activation(layer(x))), self.dropout, self.training)
        return self.layers[-1](x)


class TMLP(MultimodalRecommender):
    """TMLP, "Beyond Graph Convolution: Multimodal Recommendation with Topology-aware MLPs" (AAAI 2025, arXiv
    2412.11747).

    Features of each modality pass two MLPs and stand beside the item ids; users have preferences of the same width.
    Both spread over the user-item graph. No item graph enters a score. It acts through a contrast over the items of the
    batch instead: FREEDOM's item graph, reduced for each item to the ``mi_neighbors`` neighbours that share most
    information with it (:mod:`~recbole_mambarec.models.tmlp_graph`), says which items should be similar.

    Final embeddings and loss, with T that reduced graph, whose rows sum to 1, and c_kl the cosine of the items k and l
    of the batch, positive and negative ones::

        [user; item] = (1 + A + A^2) unit([P; MLP_1(F_1) | ... | MLP_M(F_M) | I])
        loss = BPR + cl_weight mean_k(-ln(sum_l T_kl e^(tau c_kl) / sum_l e^(tau c_kl) + 1e-8))

    As in the published code, tau is a factor, not a divisor, and the cosine of a row with itself counts as 0, while
    repeats of an item in the batch count in full.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(10, 12.5), items=(11, 0), batch=(10, 20))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.contrast_weight, self.tau = config["cl_weight"], config["tau"]
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.item_embedding = self.id_embedding(data.n_items)
        self.preference = nn.Parameter(
            nn.init.xavier_normal_(torch.empty(data.n_users, (len(self.modalities) + 1) * d))
        )
        self.entry = ModuleDict(
            {
                m: nn.Sequential(nn.Linear(self.feature_dim(m), 2 * d), nn.LeakyReLU(), nn.Linear(2 * d, d))
                for m in self.modalities
            }
        )
        check_choice("activation", config["activation"], tuple(ACTIVATIONS))
        settings = config["hidden_dim"], config["n_mlp_layers"], config["activation"], config["dropout_prob"]
        self.mlp = ModuleDict({m: GraphMLP(d, *settings) for m in self.modalities})
        self.bipartite = data.bipartite
        lists = most_informative(
            data.mixed_item_graph(config["knn_k"], config["mm_image_weight"]), config["mi_neighbors"]
        )
        itself = torch.arange(data.n_items, dtype=torch.int32)[:, None]
        indices, weights = torch.from_numpy(lists.indices), torch.from_numpy(lists.cosines)
        weights = torch.cat([weights, torch.ones(data.n_items, 1)], dim=1)
        self.register_buffer("informative", torch.cat([indices.where(indices >= 0, itself), itself], dim=1), False)
        self.register_buffer("informative_weights", weights / weights.sum(dim=1, keepdim=True), False)

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory``, and per modality the hidden layers of all items and the MLP's own weights."""
        items, d, h = cls.step_memory.items[0], config["embedding_size"], config["hidden_dim"]
        n_hidden = config["n_mlp_layers"] - 1
        weights = 2 * d * h + (n_hidden - 1) * h * h
        return cls.step_memory._replace(items=(items, 3 * n_hidden * h / d + 5 * weights / (data.n_items * d)))

    def _modal(self, modality: str) -> Tensor:
        """Mapped features, ``(I, d)``."""
        return self.mlp[modality](self.entry[modality](self.features[modality]()))

    def embed(self) -> tuple[Tensor, Tensor]:
        """Sum of two hops over the user-item graph."""
        items = torch.cat([*(self._modal(m) for m in self.modalities), self.item_embedding.weight], dim=1)
        start = unit_rows(torch.cat([self.preference, items.float()]))
        return split_nodes(sum_of_layers(self.bipartite, start, HOPS), self.data.n_users)

    def _contrast(self, all_items: Tensor, batch: Tensor) -> Tensor:
        """Contrast of the items of a batch, ``(2B,)`` numbers with repeats."""
        unit, present = unit_rows(all_items), all_rows(batch)
        # of item j there are counts[j] rows in the batch
        counts = torch.zeros(len(unit), device=unit.device).index_add_(
            0, present, torch.ones_like(present, dtype=unit.dtype)
        )
        anchors = unit[batch]
        itself = torch.exp(self.tau * anchors.square().sum(dim=1))
        # the row itself counts as 1, its repeats as what they are
        total = sums_of_exponentials(anchors, unit[present], self.tau) - itself + 1.0
        listed = self.informative[batch].long()
        similar = torch.exp(self.tau * listed_similarities(anchors, unit, listed)) * counts[listed]
        similar = torch.cat([similar[:, :-1], similar[:, -1:] - itself[:, None] + 1.0], dim=1)
        return -torch.log((self.informative_weights[batch] * similar).sum(dim=1) / total + 1e-8).mean()

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and the contrast of the batch's items."""
        all_users, all_items = self.embed()
        with torch.autocast(all_items.device.type, enabled=False):
            contrast = self._contrast(all_items.float(), torch.cat([positives, negatives]))
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]),
            "contrastive": self.contrast_weight * contrast,
        }
