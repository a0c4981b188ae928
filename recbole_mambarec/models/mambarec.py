"""MambaRec: modality features refined by DREAM, item-item and user-item graphs, distribution alignment."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError, one_of
from recbole_mambarec.layers.dream import DREAM
from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.losses import bpr, info_nce, l2_half, mmd_gaussian
from recbole_mambarec.layers.projection import DimensionProjection, width_for_variance
from recbole_mambarec.layers.propagation import item_view, light_gcn, split_nodes
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender

# What the authors' code computes and what their text describes; each entry is also a configuration key of its own.
VARIANTS = {
    "released": {
        "projection": "image",
        "channel_attention": "scalar",
        "spatial_attention": "channels",
        "contrast": "views",
        "temperature": 0.2,
    },
    "paper": {
        "projection": "shared_width",
        "channel_attention": "squeeze",
        "spatial_attention": "mean",
        "contrast": "modalities",
        "temperature": 0.01,
    },
}


class Views(NamedTuple):
    """What one pass knows of every node before fusion; rows are users first, ``(U + I, d)``."""

    refined: dict[str, Tensor]  # DREAM outputs per modality (without it, projections), (I, d)
    modal: dict[str, Tensor]
    behaviour: Tensor


class MambaRec(MultimodalRecommender):
    """MambaRec, "Modality Alignment with Multi-scale Bilateral Attention" (CIKM 2025, arXiv 2509.09114).

    There is no state-space layer in the method; Mamba is only its name. ``variant`` selects what the authors' public
    code computes (``released``) or what the paper describes (``paper``); see :data:`VARIANTS` for the differences,
    each of which can be set alone. One difference to the public code remains in both: DREAM runs once per step, not
    twice, so BatchNorm's running statistics move once.

    The released form starts slowly: the gradient of the contrastive term grows as 1 / norm, and embeddings begin short,
    so that for some 800 steps at the published rate it leaves BPR no say. The trainer's key ``lr_boost``, 3 here, ends
    that start in a third of the steps and leaves loss and gradients as they are (results/small-data.md,
    results/time-to-result.md); 1 is the published schedule.
    """

    step_memory = StepMemory(users=(8, 2), items=(9, 31), batch=(0, 27))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        preset = VARIANTS[one_of("variant", config["variant"], VARIANTS)]
        choice = {key: preset[key] if config[key] is None else config[key] for key in preset}
        for key, allowed in (
            ("projection", ("image", "shared_width", "single")),
            ("channel_attention", ("scalar", "squeeze")),
            ("spatial_attention", ("channels", "mean")),
            ("contrast", ("views", "modalities")),
        ):
            one_of(key, choice[key], allowed)
        self.contrast, self.temperature = choice["contrast"], choice["temperature"]
        self.n_mm_layers, self.n_ui_layers = config["n_mm_layers"], config["n_ui_layers"]
        self.weights = {key: config[key] for key in ("reg_weight", "cl_weight", "mmd_weight")}
        self.mmd_bandwidth = config["mmd_bandwidth"]

        d, data = self.embedding_size, self.data
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        widths = self._projection_widths(choice["projection"], config["reduction_factor"])
        modules = {"projection": {}, "dream": {}, "item_gate": {}, "item_graph": {}}
        for m in self.modalities:
            modules["projection"][m] = DimensionProjection(data.features(m).shape[1], d, widths[m])
            modules["dream"][m] = (
                DREAM(d, config["dream_rate"], choice["channel_attention"], choice["spatial_attention"])
                if config["dream"]
                else nn.Identity()
            )
            modules["item_gate"][m] = nn.Linear(d, d)
            modules["item_graph"][m] = data.item_graph(m, config["knn_k"])
        for name, per_modality in modules.items():
            setattr(self, name, nn.ModuleDict(per_modality))
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config["dropout_prob"])
        self.fusion = BehaviourGuidedFusion(d, self.modalities)
        self.bipartite, self.user_item = data.bipartite, data.user_item

    def _projection_widths(self, projection: str, reduction_factor: int | str) -> dict[str, int | None]:
        """Width between the two maps of each modality's projection; None for a single map."""
        dims = {m: self.data.features(m).shape[1] for m in self.modalities}
        if projection == "single":
            return dict.fromkeys(dims)
        if reduction_factor == "auto":
            widths = {m: width_for_variance(self.data.spectrum(m)) for m in dims}
            for m, width in widths.items():
                self.logger.info(f"reduction_factor auto: {m} keeps 95 % of its variance in {width} of {dims[m]} axes")
        elif isinstance(reduction_factor, int) and reduction_factor >= 1:
            widths = {m: max(1, dim // reduction_factor) for m, dim in dims.items()}
        else:
            raise UserError(f"reduction_factor must be a positive integer or 'auto', got {reduction_factor!r}")
        if projection == "shared_width":
            return dict.fromkeys(dims, max(widths.values(), default=1))
        return {m: widths[m] if m == "image" else None for m in dims}

    def _views(self) -> Views:
        refined = {m: self.dream[m](self.projection[m](self.features[m]())) for m in self.modalities}
        modal = {}
        for m in self.modalities:
            content = self.dropout(self.norm(refined[m]))
            items = self.item_embedding.weight * torch.sigmoid(self.item_gate[m](content))
            modal[m] = item_view(self.item_graph[m], self.user_item, items, self.n_mm_layers)
        behaviour = torch.cat(
            light_gcn(self.bipartite, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)
        )
        return Views(refined, modal, behaviour)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Behaviour view plus fused modality view."""
        views = self._views()
        return split_nodes(views.behaviour + self.fusion(views.modal, views.behaviour), self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, regularisation, contrastive alignment and maximum mean discrepancy."""
        views = self._views()
        # fusion works node by node, so the batch's nodes are all that the loss needs of it
        rows = torch.cat([users, positives + self.data.n_users, negatives + self.data.n_users])
        behaviour = views.behaviour[rows]
        side = self.fusion({m: view[rows] for m, view in views.modal.items()}, behaviour)
        u, p, n = (behaviour + side).chunk(3)
        pairs = list(combinations([refined[positives] for refined in views.refined.values()], 2))
        if self.contrast == "views":
            by_node = zip(side.chunk(3)[:2], behaviour.chunk(3)[:2])  # users and positive items
            contrastive = sum(info_nce(a, b, self.temperature) for a, b in by_node)
        else:
            contrastive = sum((info_nce(a, b, self.temperature) for a, b in pairs), u.new_zeros(()))
        unit = [(F.normalize(a, dim=1), F.normalize(b, dim=1)) for a, b in pairs]
        mmd = sum((mmd_gaussian(a, b, self.mmd_bandwidth) for a, b in unit), u.new_zeros(()))
        return {
            "bpr": bpr(u, p, n),
            "reg": self.weights["reg_weight"] * l2_half(u, p, n, batch_size=self.batch_size),
            "contrastive": self.weights["cl_weight"] * contrastive,
            "mmd": self.weights["mmd_weight"] * mmd,
        }
