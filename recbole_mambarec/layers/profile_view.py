"""Users as the items that they have: profiles of contents, learnt by softmax over sampled items."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.features import FeatureTable
from recbole_mambarec.layers.profiles import UserProfiles
from recbole_mambarec.layers.propagation import sum_of_layers
from recbole_mambarec.layers.unit import unit_rows


class ProfileView(nn.Module):
    """Cosines of a user's profile with items.

    An item is its projected, normalised features and an id side by side, plus its neighbours over the item graph. A
    linear map tells from it what it says about the users who have it; a profile is the mean of what the user's training
    items say.

    Args:
        data: training interactions.
        features: table of each modality.
        item_graph: ``(I, I)``.
        n_layers: hops over the item graph.
        width: of each modality and of the ids.
        dropout: share of the items that are left out of all profiles of a training step.
    """

    def __init__(
        self,
        data: TrainingData,
        features: ModuleDict[FeatureTable],
        item_graph: SparseGraph,
        n_layers: int,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features, self.item_graph, self.n_layers, self.dropout = features, item_graph, n_layers, dropout
        self.projection = ModuleDict({m: nn.Linear(data.features(m).shape[1], width) for m in features})
        self.item_embedding = nn.Embedding(data.n_items, width)
        nn.init.normal_(self.item_embedding.weight, std=0.1)
        total = (len(self.projection) + 1) * width
        self.statement = nn.Linear(total, total, bias=False)
        nn.init.eye_(self.statement.weight)
        self.profiles = UserProfiles(data)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Profiles ``(U, w)``, items ``(I, w)`` and what items say of their users ``(I, w)``; w is ``(M + 1) d``."""
        features = [unit_rows(layer(self.features[m]())) for m, layer in self.projection.items()]
        items = torch.cat([*features, self.item_embedding.weight], dim=1)
        items = sum_of_layers(self.item_graph, items, self.n_layers)
        said = self.statement(items)
        if self.training and self.dropout:
            said = said * F.dropout(said.new_ones(len(said), 1), self.dropout)
        return self.profiles(said), items, said

    def of_pairs(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Profiles of users without an item of theirs ``(B, w)``, which are empty ``(B,)``, and all items ``(I, w)``.

        Args:
            users, items: training interactions, ``(B,)`` each.
        """
        profiles, contents, said = self()
        rest = self.profiles.without(profiles[users], said, users, items)
        return rest, self.profiles.is_empty(users, excluding=1), contents
