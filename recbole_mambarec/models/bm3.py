"""BM3: no negatives; embeddings and features predict perturbed copies of each other."""

from __future__ import annotations

from recbole.utils import InputType
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import cosine_distance, embedding_norm
from recbole_mambarec.layers.noise import row_dropout
from recbole_mambarec.layers.propagation import light_gcn
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender


class BM3(MultimodalRecommender):
    """BM3, "Bootstrap Latent Representations for Multi-modal Recommendation" (WWW 2023, arXiv 2207.05969).

    LightGCN's users and items (the latter with their ids added once more) and the projected features pass one
    predictor. Each prediction should point in the direction of its target: the other side of the pair, or the item
    itself, under dropout and without gradient. There is no momentum encoder, and there are no negative items, so
    RecBole samples none.

    Final embeddings and loss, with p the predictor, a linear map::

        h = [H_u; H_i + I];   user = p(h_u);   item = p(h_i)
        d(a, b) = mean(1 - cos(p(a), sg(drop(b))))
        loss = d(h_u, h_i) + d(h_i, h_u) + cl_weight sum_m (d(X_m, h_i) + d(X_m, X_m))
               + reg_weight (|h_u| + |h_i|) / n_items

    As in the published code, targets do not pass the predictor while scores do, and the norms are those of *all* users
    and items, so that ``reg_weight`` has a scale of its own. Dropout is drawn for the rows of the batch, where the
    published code draws it for all nodes and keeps those rows.
    """

    input_type = InputType.POINTWISE
    step_memory = StepMemory(users=(7.5, 0), items=(8.5, 0.5), batch=(10, 4), picked=(1, 2))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.n_ui_layers, self.dropout_prob = config["n_ui_layers"], config["dropout_prob"]
        self.reg_weight, self.cl_weight = config["reg_weight"], config["cl_weight"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.predictor = nn.Linear(d, d)
        for layer in [self.predictor, *self.projection.values()]:
            nn.init.xavier_normal_(layer.weight)
        self.bipartite = data.bipartite

    def _online(self) -> tuple[Tensor, Tensor]:
        """Users and items before the predictor."""
        ids = self.item_embedding.weight
        users, items = light_gcn(self.bipartite, self.user_embedding.weight, ids, self.n_ui_layers)
        return users, items + ids

    def _target(self, x: Tensor) -> Tensor:
        return row_dropout(x.detach(), self.dropout_prob)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Predictions of users and items."""
        users, items = self._online()
        return self.predictor(users), self.predictor(items)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """Users against items and back, norm of all embeddings, features against the items and against themselves."""
        all_users, all_items = self._online()
        u, i = all_users[users], all_items[positives]
        item_target = self._target(i)
        pairs = cosine_distance(self.predictor(u), item_target) + cosine_distance(self.predictor(i), self._target(u))
        parts = {"pairs": pairs, "reg": self.reg_weight * embedding_norm(all_users, all_items)}
        for m in self.modalities:
            x = self.projection[m](self.features[m]()[positives])
            predicted = self.predictor(x)
            terms = cosine_distance(predicted, item_target) + cosine_distance(predicted, self._target(x))
            parts[f"contrastive_{m}"] = self.cl_weight * terms
        return parts
