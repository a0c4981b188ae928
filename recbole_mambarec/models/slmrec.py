"""SLMRec: positive pairs alone, and a self-supervised chain from ids through the modalities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_mambarec.layers.losses import dot_nce, info_nce
from recbole_mambarec.layers.propagation import mean_of_layers, split_nodes
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender


class SLMRec(MultimodalRecommender):
    """SLMRec, "Self-supervised Learning for Multimedia Recommendation" (TMM 2023, doi 10.1109/TMM.2022.3187556), task
    FAC.

    LightGCN runs once on ids and once per modality, on projected features, all with one user table; a linear map joins
    the results. Users should find their items among those of the batch: there are no negative items, so RecBole samples
    none. The self-supervised task (feature alignment, coarse to fine) maps item ids through a chain of heads; the
    result of each step should find its own item among those of the batch in one modality, the last one in half the
    width.

    Final embeddings and loss, with DotNCE an InfoNCE of inner products, whose temperature is ``ssl_temperature``::

        Z_m = LightGCN([U; unit(F_m) W_m])
        user = [H_u | Z_1u | ... | Z_Mu] W;   item = [H_i | Z_1i | ... | Z_Mi] V
        loss = InfoNCE(user, item) + ssl_weight sum_m DotNCE(c_m, Z_mi Q_m)
        c_0 = H_i;   c_m = c_(m-1) V_m

    As in the published code (MMRec), raw features are scaled to length 1 and frozen, training compares cosines while
    scores are inner products (the sigmoid around them is left out, as it only makes ties), and ``reg`` is never read:
    the optimizer's ``weight_decay`` regularises. With two modalities the chain keeps, between them, the head of the
    third one that the original had (sound).
    """

    input_type = InputType.POINTWISE
    min_modalities = 1
    step_memory = StepMemory(users=(5.5, 3.5), items=(14, 0), batch=(7, 3), tables=9)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data, modalities = self.embedding_size, self.data, self.modalities
        self.n_ui_layers, self.temperature = config["n_ui_layers"], config["temperature"]
        self.ssl_weight, self.ssl_temperature = config["ssl_weight"], config["ssl_temperature"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in modalities})
        views = len(modalities) + 1
        self.join_users, self.join_items = nn.Linear(views * d, d), nn.Linear(views * d, d)
        # chain[k] leads to step k; None is the step of the third modality, where there are two
        steps = (
            [modalities[0]]
            if len(modalities) == 1
            else [*modalities[:-1], *[None] * (len(modalities) == 2), modalities[-1]]
        )
        widths = [d] * len(steps) if len(steps) == 1 else [d] * (len(steps) - 1) + [d // 2]
        self.steps = tuple(steps)
        self.chain = nn.ModuleList(nn.Linear(d, width) for width in widths)
        self.head = nn.ModuleDict({m: nn.Linear(d, width) for m, width in zip(steps, widths) if m is not None})
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        self.bipartite = data.bipartite

    def _views(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Users and items of the ids (under the name ``""``) and of each modality."""
        starts = {"": self.item_embedding.weight}
        starts |= {m: self.projection[m](F.normalize(self.features[m](), dim=1)) for m in self.modalities}
        views = {}
        for name, items in starts.items():
            nodes = mean_of_layers(self.bipartite, torch.cat([self.user_embedding.weight, items]), self.n_ui_layers)
            views[name] = split_nodes(nodes, self.data.n_users)
        return views

    def _join(self, views: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        users, items = (torch.cat(side, dim=1) for side in zip(*views.values()))
        return self.join_users(users), self.join_items(items)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Ids and modalities joined."""
        return self._join(self._views())

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """InfoNCE of the pairs, and one term per modality in the chain of the task."""
        views = self._views()
        all_users, all_items = self._join(views)
        parts = {"main": info_nce(all_users[users], all_items[positives], self.temperature)}
        x = views[""][1][positives]
        for step, layer in zip(self.steps, self.chain):
            x = layer(x)
            if step is not None:
                own = self.head[step](views[step][1][positives])
                parts[f"ssl_{step}"] = self.ssl_weight * dot_nce(x, own, self.ssl_temperature)
        return parts
