"""DGMRec: general and specific parts of each modality, and features generated for items that lack one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.imputation import LEARNED
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr, embedding_norm, info_nce, info_nce_distinct
from recbole_mambarec.layers.mutual_information import ClubEstimator
from recbole_mambarec.layers.noise import random_order, signed_node_noise
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.layers.reconstruction import reconstruction_error
from recbole_mambarec.layers.rows import all_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of
from recbole_mambarec.models.dgmrec_generation import ModalityGenerator
from recbole_mambarec.models.dgmrec_graphs import BlendedGraph, observed_graph
from recbole_mambarec.models.dgmrec_parts import Disentanglement, Parts
from recbole_mambarec.trained_apart import TrainedApart
from recbole_mambarec.value_checks import check_share

# fixed in the published code: weight of the ids in the regulariser; steps of the Gaussians before an epoch, their
# learning rate, and the items that a step sees
ID_WEIGHT, GAUSSIAN_STEPS, GAUSSIAN_RATE, GAUSSIAN_ITEMS = 1e-5, 5, 1e-4, 2048
# epochs between two searches for the neighbours of items whose features are generated
EPOCHS_PER_SEARCH = 5


class DGMRec(MultimodalRecommender):
    """DGMRec, "Disentangling and Generating Modalities for Recommendation in Missing Modality Scenarios" (SIGIR 2025,
    arXiv 2504.16352).

    Features of a modality give a general part, through a map V that all modalities share, and a specific one. The users
    of an item filter both parts, which then spread over the item graph of the modality; a user is the mean of their
    items. Where items lack a modality, the model can generate it.

    Final embeddings and loss, with g_m and s_m the general and the specific part, and f_m the filter::

        g_m = sigma(V tanh(F_m W_m));   s_m = sigma(F_m W_m);   f_m = D_i^-1 R^T tanh(U W_m)
        [G_m | T_m]_i = S_m^n [f_m * g_m | f_m * s_m];   [G_m | T_m]_u = D_u^-1 R [G_m | T_m]_i
        [user; item] = H + (mean_m G_m + sum_m T_m) / (M + 1)
        loss = BPR + inter + intra + align + recon + club + reg,   each with its weight

    ``inter`` contrasts the general parts of two modalities, ``intra`` users with their items by H and by each part, and
    ``align`` H with the general parts. ``recon`` is the error with which a linear map of G_m and T_m gives F_m back.
    ``club`` bounds what T_m tells of G_m; its Gaussians have an optimizer of their own
    (:class:`~recbole_mambarec.layers.mutual_information.ClubEstimator`). ``reg`` has norms of both.

    Where items lack a modality but have another one, the loss also has ``generation``, which teaches the model to
    generate the missing one (:class:`~recbole_mambarec.models.dgmrec_generation.ModalityGenerator`). Before each epoch,
    what is generated spreads over the item graph, is decoded, and becomes the features of these items; in every fifth
    epoch their links move towards those that the new features give. With any other ``impute_missing`` than ``learned``,
    the default of this model, features are filled in from the data, and nothing is generated.

    With ``variant: released``, an item that lacks a modality takes a place in the neighbour lists of others, by the
    mean that stands in for its features, and is removed from them afterwards. With ``paper`` it takes no place.

    As in the published code, in its version for a journal, the contrast of users and items by their general parts has
    the temperature of ``inter``. Two choices are this package's: with more than two modalities, a general part is
    generated as the mean of what the others give, and the learning rate of the Gaussians follows the schedule of the
    model's.
    """

    min_modalities = 1
    generates_missing = True
    # a sixth copy of a table: the reconstruction's gradient, until that of the encoders is there
    step_memory = StepMemory(users=(9.5, 3), items=(15.5, 10), batch=(9.5, 27.5), tables=6)

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
        self.disentangle = Disentanglement(data, d)
        self.decoder = ModuleDict({m: nn.Linear(2 * d, self.feature_dim(m)) for m in self.modalities})
        self.gaussian = ModuleDict({m: ClubEstimator(d) for m in self.modalities})
        self.bipartite = data.bipartite
        self.item_graph: ModuleDict[SparseGraph | BlendedGraph] = ModuleDict(
            {m: observed_graph(data, m, self.knn_k, self.released) for m in self.modalities}
        )
        present = np.stack([data.present(m) for m in self.modalities])
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        self.generator: ModalityGenerator | None = None
        # some items lack a modality, but not all of them
        if config["impute_missing"] in (None, LEARNED) and (present.any(axis=0) & ~present.all(axis=0)).any():
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
        absent = {m: np.flatnonzero(~self.data.present(m)) for m in self.modalities}
        self.blended = {
            m: BlendedGraph(cast(SparseGraph, self.item_graph[m]), items, weight)
            for m, items in absent.items()
            if len(items) and weight > 0
        }
        self.item_graph.update(self.blended)

    # ------------------------------------------------------------------ users and items

    def _parts(self) -> Parts:
        return self.disentangle(self.features, self.user_embedding.weight, self.item_graph, self.n_mm_layers)

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
            "club": [self._dependence(m, x) for m, x in parts.items.items()],
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

    def _dependence(self, modality: str, items: Tensor) -> Tensor:
        general, specific = items.chunk(2, dim=1)
        return self.gaussian[modality](specific, general, random_order(len(items), items.device))

    # ------------------------------------------------------------------ before an epoch

    def trained_apart(self) -> dict[str, TrainedApart]:
        """The Gaussians, which predict general parts from specific ones."""
        return {"gaussian": TrainedApart(self.gaussian.parameters(), GAUSSIAN_RATE)}

    def losses_before_epoch(self, epoch: int) -> Iterator[tuple[str, Tensor]]:
        """How badly they predict the parts before filter and propagation, for random items in every step."""
        with torch.no_grad():
            parts = self._parts()
        for _ in range(GAUSSIAN_STEPS):
            misfits = []
            for m in self.modalities:
                rows = random_order(self.data.n_items, parts.general[m].device)[:GAUSSIAN_ITEMS]
                misfits.append(self.gaussian[m].misfit(parts.specific[m][rows], parts.general[m][rows]))
            yield "gaussian", torch.stack(misfits).sum()

    def pre_epoch(self, epoch: int) -> None:
        """Generate the features that items lack."""
        if self.generator is not None:
            self.generate()
            if (epoch + 1) % EPOCHS_PER_SEARCH == 0:
                self.search()

    @torch.no_grad()
    def generate(self) -> None:
        """Replace the features of the items that lack a modality and have another one."""
        generator = cast(ModalityGenerator, self.generator)
        parts = self._parts()
        for m, present in zip(self.modalities, self.present):
            rows = (~present & self.present.any(dim=0)).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            made = generator.make(m, parts.general, parts.filters[m])
            spread = propagate(self.item_graph[m], made, self.n_mm_layers)[rows]
            self.features[m].weight[rows] = self.decoder[m](signed_node_noise(spread))

    @torch.no_grad()
    def search(self) -> None:
        """Blend the links of the items that lack a modality with those that their present features give."""
        for m, graph in self.blended.items():
            found = self.data.neighbours_among(self.features[m].weight, self.knn_k, stand_ins=self.released)
            graph.blend(found)
