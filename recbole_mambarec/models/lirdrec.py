"""LIRDRec: features and their spectrum as branches, whose weights for each user move from learnt to remembered."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.layers.propagation import propagate, split_nodes, sum_of_layers
from recbole_mambarec.layers.spectral import idct
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.value_checks import check_share


class LIRDRec(MultimodalRecommender):
    """LIRDRec, "Learning Item Representations Directly from Multimodal Features for Effective Recommendation" (arXiv
    2505.04960).

    Items have no ids. A branch per modality, and one for the cosine transforms of all of them side by side, maps
    features by an MLP and has user preferences of its own. The branches stand side by side and are added up over the
    layers of the user-item graph; items also receive over FREEDOM's item graph, and users weigh their branches by an
    attention that relies more and more on the one remembered from the epoch before.

    Final embeddings and loss, with b = 1, ..., B the branches, i.e. the modalities and the spectrum::

        Z = (1 + A + ... + A^L) [z_1 | ... | z_B],   z_b = unit([P_b; MLP_b(F_b)])
        user = [a_1 Z_1u | ... | a_B Z_Bu],   a_b = softmax_b(w_1 MLP_b(Z_bu) + w_2 theta_b)
        item = Z_i + S^n Z_i
        loss = BPR + reg_weight (mean(user^2) + mean(item^2))

    Before epoch e (counted from 1), w_1 is multiplied by ``decay_base^e``, w is rescaled to sum to 1, and theta, which
    is trained in between, is overwritten by the attention a of the last training step. The squares are those of all
    users and of all items.

    The cosine transform is a linear map T: the first weights W of the MLP are applied as ``F_b (T W)``, so that the
    transformed features are never stored. The published code scores with the embeddings of its last training step; here
    scores follow from the saved weights.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(13, 13), items=(13.5, 15), batch=(6, 8.5))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.reg_weight, self.decay_base = config["reg_weight"], config["decay_base"]
        first = check_share("decay_weight", config["decay_weight"])
        self.features = self.feature_tables(frozen=config["freeze_features"])
        widths = {m: self.feature_dim(m) for m in self.modalities}
        self.spectrum = self.branch_name("spectrum")
        widths[self.spectrum] = sum(widths.values())
        self.preference = nn.ParameterDict(
            {b: nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_users, d))) for b in widths}
        )
        self.hidden = ModuleDict({b: nn.Linear(width, 4 * d) for b, width in widths.items()})
        self.output = ModuleDict({b: nn.Linear(4 * d, d, bias=False) for b in widths})
        self.scorer = ModuleDict(
            {
                b: nn.Sequential(nn.Linear(d, max(d // 4, 1)), nn.LeakyReLU(), nn.Linear(max(d // 4, 1), 1))
                for b in widths
            }
        )
        self.theta = nn.Parameter(torch.full((data.n_users, len(widths)), 1.0 / len(widths)))
        # both are part of the model's state: no weights bring them back
        self.register_buffer("weights", torch.tensor([first, 1.0 - first]))
        self.register_buffer("last_attention", self.theta.detach().clone())
        self.bipartite = data.bipartite
        self.item_graph = data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])

    @torch.no_grad()
    def pre_epoch(self, epoch: int) -> None:
        """Shift weight from the scores to theta, which remembers the last attention."""
        self.weights[0] *= self.decay_base ** (epoch + 1)
        self.weights /= self.weights.sum()
        self.theta.copy_(self.theta if epoch == 0 else self.last_attention)

    def _items(self, branch: str) -> Tensor:
        """Mapped features of a branch, ``(I, d)``."""
        layer = self.hidden[branch]
        if branch != self.spectrum:
            hidden = layer(self.features[branch]())
        else:
            parts = layer.weight.split([self.feature_dim(m) for m in self.modalities], dim=1)
            hidden = sum(self.features[m]() @ idct(part).T for m, part in zip(self.modalities, parts)) + layer.bias
        return self.output[branch](F.leaky_relu(hidden))

    def _branches(self) -> tuple[Tensor, Tensor]:
        """Users and items after the user-item graph, the branches side by side."""
        nodes = [unit_rows(torch.cat([self.preference[b], self._items(b).float()])) for b in self.hidden]
        total = sum_of_layers(self.bipartite, torch.cat(nodes, dim=1), self.n_ui_layers)
        return split_nodes(total, self.data.n_users)

    def _attention(self, users: Tensor) -> Tensor:
        """Weights of a user's branches, ``(U, branches)``."""
        parts = users.chunk(len(self.hidden), dim=1)
        scores = torch.cat([self.scorer[b](x) for b, x in zip(self.hidden, parts)], dim=1)
        return (self.weights[0] * scores + self.weights[1] * self.theta).softmax(dim=1)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Users with their branches weighed; items with what the item graph adds."""
        users, items = self._branches()
        attention = self._attention(users)
        if self.training:
            self.last_attention.copy_(attention.detach())
        weighed = users * attention.repeat_interleave(self.embedding_size, dim=1)
        return weighed, items + propagate(self.item_graph, items, self.n_mm_layers)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and the squares of all users and items."""
        all_users, all_items = self.embed()
        squares = all_users.square().mean() + all_items.square().mean()
        return {
            "bpr": bpr(all_users[users], all_items[positives], all_items[negatives]),
            "reg": self.reg_weight * squares,
        }
