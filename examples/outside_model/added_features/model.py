"""AddedFeatures: matrix factorisation whose items are an id embedding plus their projected features."""

from torch import Tensor, nn

from recbole_mambarec.layers.losses import bpr, l2_half
from recbole_mambarec.models.base import MultimodalRecommender


class AddedFeatures(MultimodalRecommender):
    """An item is its id embedding plus the linear projection of each modality; the loss is BPR with an L2 term."""

    min_modalities = 1

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.reg_weight = config["reg_weight"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), d, bias=False) for m in self.modalities})

    def embed(self) -> tuple[Tensor, Tensor]:
        """Users, and items with their features."""
        content = sum(self.projection[m](self.features[m]()) for m in self.modalities)
        return self.user_embedding.weight, self.item_embedding.weight + content

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR and the L2 term, of the rows of the batch."""
        all_users, all_items = self.embed()
        u, p, n = all_users[users], all_items[positives], all_items[negatives]
        return {"bpr": bpr(u, p, n), "reg": self.reg_weight * l2_half(u, p, n, batch_size=self.batch_size)}
