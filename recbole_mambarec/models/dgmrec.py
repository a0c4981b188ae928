"""DGMRec: general and specific parts of each modality, and features generated for items that lack one."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.data.graphs.bipartite import user_item_block
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr, embedding_norm, info_nce, info_nce_distinct
from recbole_mambarec.layers.mutual_information import ClubBounds
from recbole_mambarec.layers.noise import signed_node_noise
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.layers.reconstruction import reconstruction_error
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of
from recbole_mambarec.models.dgmrec_generation import ModalityGenerator
from recbole_mambarec.models.dgmrec_graphs import BlendedGraph, observed_graph
from recbole_mambarec.value_checks import check_share

# fixed in the published code: weight of the ids in the regulariser, and the own training of the Gaussians
ID_WEIGHT = 1e-5
GAUSSIANS = {"steps": 5, "learning_rate": 1e-4, "max_rows": 2048}
# epochs between two searches for the neighbours of items whose features are generated
EPOCHS_PER_SEARCH = 5


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


class DGMRec(MultimodalRecommender):
    """DGMRec, "Disentangling and Generating Modalities for Recommendation in Missing Modality Scenarios" (SIGIR 2025,
    arXiv 2504.16352).

    Features F_m give a general part, through a map that all modalities share, and a specific one; the users of an item
    filter both, and they spread over the item graph of the modality. A user is the mean of their items::

        g_m = sigmoid(C tanh(A_m F_m));   s_m = sigmoid(B_m F_m);   f_m = mean over an item's users of tanh(W_m e_u)
        [G_m | S_m] = S^n [f_m * g_m | f_m * s_m]
        user, item = LightGCN + (mean_m G_m + sum_m S_m) / (M + 1)

    Besides BPR, the loss has: ``inter``, general parts of one item or user agree in all modalities; ``intra``, users
    find their items in each part; ``align``, and so do ids and general parts; ``recon``, G_m and S_m give F_m back;
    ``club``, S_m tells little of G_m (:class:`~recbole_mambarec.layers.mutual_information.ClubEstimator`); ``reg``.

    Where items lack a modality and have another one, maps learn to make it (``generation``,
    :class:`~recbole_mambarec.models.dgmrec_generation.ModalityGenerator`). Before each epoch, what they make spreads
    over the item graph, is decoded, and becomes the item's features. Every fifth time, these items get part of the links
    that they have by these features.

    ``variant: released``: items that lack a modality take places in the lists of neighbours of the others, with the mean
    that stands in for it, and are left out only then; the main optimizer trains the Gaussians of ``club``, too, towards
    a lower bound. ``paper``: they take no places, and the Gaussians learn their likelihood alone.

    Readings of the published code: its journal version; with more than two modalities, a general part is the mean of
    what the others give; the contrast of users and items by general parts has the temperature of ``inter``.
    """

    min_modalities = 1
    # for checkpoints
    other_parameter_name = ("gaussians_state",)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.released = variant_of(config) == "released"
        self.n_ui_layers, self.n_mm_layers, self.knn_k = config["n_ui_layers"], config["n_mm_layers"], config["knn_k"]
        terms = ("inter", "intra", "align", "recon", "club", "reg", "generation")
        self.weight = {name: config[f"{name}_weight"] for name in terms}
        self.temperature = {name: config[f"{name}_temperature"] for name in terms[:3]}
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.general_encoder = ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.specific_encoder = ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.shared_encoder = nn.Linear(d, d)
        self.user_filter = ModuleDict({m: nn.Linear(d, d, bias=False) for m in self.modalities})
        self.decoder = ModuleDict({m: nn.Linear(2 * d, self.feature_dim(m)) for m in self.modalities})
        self.gaussians = ClubBounds(self.modalities, d, **GAUSSIANS)
        self.bipartite = data.bipartite
        self.mean_of_items = data.user_item_weighted("mean")
        self.mean_of_users = user_item_block(data.items, data.users, data.n_items, data.n_users, "mean")
        self.item_graph = nn.ModuleDict({m: observed_graph(data, m, self.knn_k, self.released) for m in self.modalities})
        present = np.stack([data.present(m) for m in self.modalities])
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        self.generator: ModalityGenerator | None = None
        # some items lack a modality, but not all of them
        if (present.any(axis=0) & ~present.all(axis=0)).any():
            self._prepare_generation(config)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def _prepare_generation(self, config) -> None:
        if config["freeze_features"]:
            raise UserError(
                "DGMRec writes the features that it generates for items without a modality into its tables: set "
                "freeze_features to False, or leave the incomplete modalities out of modalities"
            )
        weight = check_share("ii_refined_weight", config["ii_refined_weight"])
        self.generator = ModalityGenerator({m: self.data.present(m) for m in self.modalities}, self.embedding_size)
        self.blended = [m for m in self.modalities if not self.data.present(m).all() and weight > 0]
        for m in self.blended:
            self.item_graph[m] = BlendedGraph(self.item_graph[m], np.flatnonzero(~self.data.present(m)), weight)

    # ------------------------------------------------------------------ users and items

    def _parts(self) -> Parts:
        encoded = {m: self._encoded(m) for m in self.modalities}
        general, specific = ({m: pair[part] for m, pair in encoded.items()} for part in (0, 1))
        # one sparse product for all modalities
        wanted = torch.cat([layer.weight for layer in self.user_filter.values()])
        filters = self.mean_of_users.propagate(torch.tanh(F.linear(self.user_embedding.weight, wanted)))
        filters = dict(zip(self.modalities, filters.chunk(len(self.modalities), dim=1)))
        items = {}
        for m in self.modalities:
            filtered = torch.cat([filters[m] * general[m], filters[m] * specific[m]], dim=1)
            items[m] = propagate(self.item_graph[m], filtered, self.n_mm_layers)
        users = self.mean_of_items.propagate(torch.cat([*items.values()], dim=1)).chunk(len(items), dim=1)
        return Parts(general, specific, filters, items, dict(zip(items, users)))

    def _encoded(self, modality: str) -> tuple[Tensor, Tensor]:
        """General and specific part of a modality, ``(I, d)`` each; the table is read once for both."""
        layers = self.general_encoder[modality], self.specific_encoder[modality]
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        general, specific = F.linear(self.features[modality](), weight, bias).chunk(2, dim=1)
        return torch.sigmoid(self.shared_encoder(torch.tanh(general))), torch.sigmoid(specific)

    def _collaborative(self) -> tuple[Tensor, Tensor]:
        return light_gcn(self.bipartite, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)

    def _general(self, side: dict[str, Tensor]) -> Tensor:
        """Mean of the general parts, ``(n, d)``."""
        return torch.stack([x[:, : self.embedding_size] for x in side.values()]).mean(dim=0)

    def _content(self, side: dict[str, Tensor]) -> Tensor:
        """All parts of users or items together, ``(n, d)``."""
        specific = torch.stack([x[:, self.embedding_size :] for x in side.values()]).sum(dim=0)
        return (self._general(side) + specific) / (len(side) + 1)

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN of the ids plus the parts of the modalities."""
        (users, items), parts = self._collaborative(), self._parts()
        return users + self._content(parts.users), items + self._content(parts.items)

    # ------------------------------------------------------------------ loss

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR and the terms that the class lists."""
        (ids_u, ids_i), parts, d = self._collaborative(), self._parts(), self.embedding_size
        u, p, n = ids_u[users], ids_i[positives], ids_i[negatives]
        of_users = {m: x[users] for m, x in parts.users.items()}
        of_items = {m: x[positives] for m, x in parts.items.items()}
        general = self._general(of_users), self._general(of_items)
        content = self._content(parts.items)
        batch = torch.cat([positives, negatives])
        terms = {
            "intra": [
                info_nce(u, p, self.temperature["intra"]),
                info_nce(*general, self.temperature["inter"]),
                *(info_nce(of_users[m][:, d:], of_items[m][:, d:], self.temperature["intra"]) for m in of_users),
            ],
            "align": [info_nce(ids, part, self.temperature["align"]) for ids, part in zip((p, u), general[::-1])],
            "recon": [self._reconstruction(m, x) for m, x in parts.items.items()],
            "club": [self._club(parts)],
            "reg": [embedding_norm(all_rows(x[:, :d] + x[:, d:])) for x in of_items.values()],
        }
        if len(self.modalities) > 1:
            terms["inter"] = self._agreement(parts.general, of_users, batch)
        if self.generator is not None:
            general_items = {m: x[:, :d] for m, x in parts.items.items()}
            terms["generation"] = [*self.generator.loss(parts.specific, parts.filters, general_items, batch).values()]
        weighted = {name: self.weight[name] * torch.stack(values).sum() for name, values in terms.items()}
        weighted["reg"] = weighted["reg"] + ID_WEIGHT * embedding_norm(*(all_rows(x) for x in (u, p, n)))
        ranked = u + self._content(of_users), p + content[positives], n + content[negatives]
        return {"bpr": bpr(*ranked), **weighted}

    def _agreement(self, general: dict[str, Tensor], of_users: dict[str, Tensor], batch: Tensor) -> list[Tensor]:
        """Contrasts of two modalities' general parts: of items, each once and before the filter, and of users."""
        tau, d, found = self.temperature["inter"], self.embedding_size, []
        for (a, has_a), (b, has_b) in combinations(zip(self.modalities, self.present), 2):
            found.append(info_nce_distinct(general[a][batch], general[b][batch], batch, tau, (has_a & has_b)[batch]))
            found.append(info_nce(of_users[a][:, :d], of_users[b][:, :d], tau))
        return found

    def _reconstruction(self, modality: str, items: Tensor) -> Tensor:
        noisy = signed_node_noise(items.detach())
        return reconstruction_error(self.decoder[modality], noisy, self.features[modality]())

    def _club(self, parts: Parts) -> Tensor:
        general, specific = ({m: x.chunk(2, dim=1)[part] for m, x in parts.items.items()} for part in (0, 1))
        return self.gaussians.bound(specific, general, trained=self.released)

    # ------------------------------------------------------------------ before an epoch

    @property
    def gaussians_state(self) -> dict:
        """State of the optimizer that trains the Gaussians."""
        return self.gaussians.state

    @gaussians_state.setter
    def gaussians_state(self, value: dict) -> None:
        self.gaussians.state = value

    def pre_epoch(self, epoch: int) -> None:
        """Train the Gaussians on what they predict before filter and propagation; generate what items lack."""
        with torch.no_grad():
            parts = self._parts()
        self.gaussians.fit(parts.specific, parts.general)
        if self.generator is not None:
            self.generate(parts)
            if (epoch + 1) % EPOCHS_PER_SEARCH == 0:
                self.search()

    @torch.no_grad()
    def generate(self, parts: Parts) -> None:
        """Replace the features of the items that lack a modality and have another one."""
        for m, present in zip(self.modalities, self.present):
            rows = (~present & self.present.any(dim=0)).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            made = self.generator.make(m, parts.general, parts.filters[m])
            spread = propagate(self.item_graph[m], made, self.n_mm_layers)[rows]
            self.features[m].weight[rows] = self.decoder[m](signed_node_noise(spread))

    @torch.no_grad()
    def search(self) -> None:
        """Blend the links of the items that lack a modality with those that their present features give."""
        for m in self.blended:
            found = self.data.neighbours_among(self.features[m].weight, self.knn_k, stand_ins=self.released)
            self.item_graph[m].blend(found)
