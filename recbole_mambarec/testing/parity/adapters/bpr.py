"""RecBole's own BPR.

Its tables have a padding row 0, which no interaction touches; slots leave it out. Its loss has no regulariser, that of
the published code has one, which the adapter adds. Without it the loss of the golden file would differ by 3.1 %; the
BPR part agrees as it is.
"""

from __future__ import annotations

from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.layers.losses import embedding_norm
from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import same, weighted

REAL = slice(1, None)


def gathered(model: AbstractRecommender, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the batch in the tables that training changes."""
    users, items = model.user_embedding, model.item_embedding
    return users(batch["user_id"]), items(batch["item_id"]), items(batch["neg_item_id"])


ADAPTER = Adapter(
    slots=lambda model: {
        f"{side}_embedding.weight": Slot(f"{side}_embedding.weight", REAL) for side in ("user", "item")
    },
    parts={"bpr": same("loss"), "reg": weighted("reg", "reg_weight")},
    embeddings=lambda model: (model.user_embedding.weight, model.item_embedding.weight),
    missing_loss=lambda model, batch, config: {
        "reg": config["reg_weight"] * embedding_norm(*gathered(model, batch)),
    },
)
