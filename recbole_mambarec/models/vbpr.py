"""VBPR: matrix factorisation in which half of the item vector is projected from features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mambarec.data.rows import side_by_side
from recbole_mambarec.layers.features import FeatureTable
from recbole_mambarec.layers.losses import bpr, embedding_norm
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender


class VBPR(MultimodalRecommender):
    """VBPR, "Visual Bayesian Personalized Ranking from Implicit Feedback" (AAAI 2016, arXiv 1510.01784).

    Matrix factorisation in which half of an item's vector is projected from its features. This is the form behind
    published multimodal results (MMRec): all modalities are projected together, and there are no biases. The paper has
    one modality, and biases of item and picture.

    Final embeddings and loss, with P the users' free vectors, of width 2d::

        user = P;   item = [I | [F_1 | ... | F_M] W]
        loss = BPR + reg_weight (|u| + |i| + |j|) / n_batch

    The regulariser has the norms of the batch's vectors, not their squares. It includes the projected part; the
    projection itself is not regularised.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(10, 0), items=(5.5, 0.5), batch=(14, 0), picked=(2, 3), tables=6)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.reg_weight = config["reg_weight"]
        self.user_embedding = self.id_embedding(data.n_users, 2 * d)
        self.item_embedding = self.id_embedding(data.n_items)
        # the published code puts the text before the picture
        parts = [data.features(m) for m in reversed(self.modalities)]
        together, widths = side_by_side(parts), [part.shape[1] for part in parts]
        self.features = FeatureTable(together, config["freeze_features"], self.modality_dropout, widths)
        self.projection = nn.Linear(together.shape[1], d)
        nn.init.xavier_normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def _items(self, rows: Tensor | slice) -> Tensor:
        """Vectors of the items ``rows``, ``(n, 2d)``: only their features are projected."""
        return torch.cat([self.item_embedding.weight[rows], self.projection(self.features()[rows])], dim=1)

    def embed(self) -> tuple[Tensor, Tensor]:
        """User vectors and item vectors of width 2d."""
        return self.user_embedding.weight, self._items(slice(None))

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR and the norm of the vectors."""
        u, p, n = self.user_embedding(users), self._items(positives), self._items(negatives)
        return {"bpr": bpr(u, p, n), "reg": self.reg_weight * embedding_norm(*map(all_rows, (u, p, n)))}
