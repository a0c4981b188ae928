"""How DGMRec divides the features of each modality into a general and a specific part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.data.graphs.bipartite import user_item_block
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.propagation import Graph, propagate


class Parts(NamedTuple):
    """Parts of the modalities, by modality.

    Attributes:
        general, specific: of items, before filter and propagation, ``(I, d)``.
        filters: what an item's users look for in it, ``(I, d)``.
        items, users: both parts side by side after filter and propagation, ``(I, 2 d)`` and ``(U, 2 d)``.
    """

    general: dict[str, Tensor]
    specific: dict[str, Tensor]
    filters: dict[str, Tensor]
    items: dict[str, Tensor]
    users: dict[str, Tensor]


class Disentanglement(nn.Module):
    """Encoders of both parts, and the filters of the users.

    Args:
        data: the training data.
        dim: width d of a part.
    """

    def __init__(self, data: TrainingData, dim: int) -> None:
        super().__init__()
        widths = {m: data.features(m).shape[1] for m in data.modalities}
        self.general = ModuleDict({m: nn.Linear(width, dim) for m, width in widths.items()})
        self.specific = ModuleDict({m: nn.Linear(width, dim) for m, width in widths.items()})
        self.shared = nn.Linear(dim, dim)
        self.user_filter = ModuleDict({m: nn.Linear(dim, dim, bias=False) for m in widths})
        self.mean_of_items = data.user_item_weighted("mean")
        self.mean_of_users = user_item_block(data.items, data.users, data.n_items, data.n_users, "mean")

    def forward(
        self, features: Mapping[str, nn.Module], users: Tensor, item_graph: Mapping[str, Graph], n_layers: int
    ) -> Parts:
        """All parts.

        Args:
            features: modality -> feature table.
            users: ids of the users, ``(U, d)``.
            item_graph: modality -> graph over which filtered parts spread, ``n_layers`` times.
        """
        encoded = {m: self._encode(m, table()) for m, table in features.items()}
        general, specific = ({m: pair[part] for m, pair in encoded.items()} for part in (0, 1))
        filters = self._filters(users)
        items = {}
        for m, graph in item_graph.items():
            filtered = torch.cat([filters[m] * general[m], filters[m] * specific[m]], dim=1)
            items[m] = propagate(graph, filtered, n_layers)
        of_users = self.mean_of_items.propagate(torch.cat([*items.values()], dim=1)).chunk(len(items), dim=1)
        return Parts(general, specific, filters, items, dict(zip(items, of_users)))

    def _encode(self, modality: str, table: Tensor) -> tuple[Tensor, Tensor]:
        """General and specific part of the items, ``(I, d)`` each; the table is read once for both."""
        layers = self.general[modality], self.specific[modality]
        weight, bias = torch.cat([x.weight for x in layers]), torch.cat([x.bias for x in layers])
        general, specific = F.linear(table, weight, bias).chunk(2, dim=1)
        return torch.sigmoid(self.shared(torch.tanh(general))), torch.sigmoid(specific)

    def _filters(self, users: Tensor) -> dict[str, Tensor]:
        """What the users of an item look for in each modality, ``(I, d)``, by one sparse product for all."""
        weight = torch.cat([layer.weight for layer in self.user_filter.values()])
        filters = self.mean_of_users.propagate(torch.tanh(F.linear(users, weight)))
        return dict(zip(self.user_filter, filters.chunk(len(self.user_filter), dim=1)))
