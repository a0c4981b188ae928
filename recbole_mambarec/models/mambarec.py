"""MambaRec: modality features refined by DREAM, item-item and user-item graphs, distribution alignment."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.dream import CHANNEL_ATTENTION, DREAM, SPATIAL_ATTENTION
from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.losses import bpr, info_nce, l2_half, mmd_gaussian
from recbole_mambarec.layers.projection import DimensionProjection, width_for_variance
from recbole_mambarec.layers.propagation import item_view
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.views import TwoViewRecommender, UnfusedViews
from recbole_mambarec.value_checks import check_choice

# what the authors' code computes and what their text describes; each entry is also a configuration key
VARIANTS: dict[str, dict[str, Any]] = {
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
_ALLOWED = {
    "projection": ("image", "shared_width", "single"),
    "channel_attention": CHANNEL_ATTENTION,
    "spatial_attention": SPATIAL_ATTENTION,
    "contrast": ("views", "modalities"),
}


@dataclass(frozen=True)
class RefinedViews(UnfusedViews):
    """The views, and the refined features of each modality's items that are behind them, ``(I, d)``."""

    refined: dict[str, Tensor]


class MambaRec(TwoViewRecommender):
    """MambaRec, "Modality Alignment with Multi-scale Bilateral Attention for Multimodal Recommendation" (CIKM 2025,
    arXiv 2509.09114).

    The projected features of each modality are refined by :class:`~recbole_mambarec.layers.dream.DREAM`, parallel
    convolutions under two attentions. They gate the item ids, which are propagated over the item graphs and fused with
    LightGCN's view as in MGCN. A contrast ties the two views, and the maximum mean discrepancy brings the modalities'
    distributions together. There is no state-space layer in the method; Mamba is only its name.

    Final embeddings and loss, with fuse as in MGCN::

        f_m = DREAM(X_m);   V_m = S_m^n (I * sigma(drop(LayerNorm(f_m)) W_m));   z_m = [A_u V_m; V_m]
        [user; item] = H + Z,   Z = fuse(z_1, ..., z_M; H)
        loss = BPR + reg_weight L2(user, item) + cl_weight (InfoNCE(Z_u, H_u) + InfoNCE(Z_i, H_i))
               + mmd_weight sum_(m<k) MMD^2(unit(f_m), unit(f_k))

    ``variant`` selects what the authors' public code computes (``released``) or what the paper describes (``paper``);
    :data:`VARIANTS` lists the differences, each of which can also be set alone. The formula is that of ``released``; in
    the ``paper`` form InfoNCE is between f_m and f_k. One difference to the public code remains in both: DREAM runs
    once per step, not twice, so that BatchNorm's running statistics move once.

    The released form starts slowly: the gradient of the contrastive term grows as 1 / norm, and embeddings start short,
    so that it drowns BPR for some 800 steps at the published rate. The trainer's key ``lr_boost``, 3 here, gets through
    that phase in a third of the steps and leaves loss and gradients as they are (results/small-data.md,
    results/time-to-result.md); 1 is the published schedule.
    """

    step_memory = StepMemory(users=(8, 2), items=(9, 31), batch=(0, 27))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        preset = VARIANTS[check_choice("variant", config["variant"], VARIANTS)]
        choice = {key: preset[key] if config[key] is None else config[key] for key in preset}
        for key, allowed in _ALLOWED.items():
            check_choice(key, choice[key], allowed)
        self.contrast, self.temperature = choice["contrast"], choice["temperature"]
        self.mmd_weight, self.mmd_bandwidth = config["mmd_weight"], config["mmd_bandwidth"]

        d = self.embedding_size
        widths = self._projection_widths(choice["projection"], config["reduction_factor"])
        attention = choice["channel_attention"], choice["spatial_attention"]
        self.projection, self.dream = nn.ModuleDict(), nn.ModuleDict()
        self.item_gate = nn.ModuleDict()
        self.item_graph: ModuleDict[SparseGraph] = ModuleDict()
        for m in self.modalities:
            self.projection[m] = DimensionProjection(self.feature_dim(m), d, widths[m])
            self.dream[m] = DREAM(d, config["dream_rate"], *attention) if config["dream"] else nn.Identity()
            self.item_gate[m] = nn.Linear(d, d)
            self.item_graph[m] = self.data.item_graph(m, config["knn_k"])
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config["dropout_prob"])
        self.fusion = BehaviourGuidedFusion(d, self.modalities)

    def _projection_widths(self, projection: str, reduction_factor: int | str) -> dict[str, int | None]:
        """Width between the two maps of each modality's projection; None for a single map."""
        dims = {m: self.feature_dim(m) for m in self.modalities}
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

    def _unfused(self) -> RefinedViews:
        refined = {m: self.dream[m](self.projection[m](self.features[m]())) for m in self.modalities}
        modal = {}
        for m in self.modalities:
            content = self.dropout(self.norm(refined[m]))
            items = self.item_embedding.weight * torch.sigmoid(self.item_gate[m](content))
            modal[m] = item_view(self.item_graph[m], self.user_item, items, self.n_mm_layers)
        return RefinedViews(self._behaviour(), modal, refined)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, regularisation, contrastive alignment and maximum mean discrepancy."""
        views = self._unfused()
        of_users, of_positives, of_negatives = self._views_of_batch(views, users, positives, negatives)
        u, p, n = (view.behaviour + view.side for view in (of_users, of_positives, of_negatives))
        pairs = list(combinations([refined[positives] for refined in views.refined.values()], 2))
        by_node = ((view.side, view.behaviour) for view in (of_users, of_positives))
        aligned = by_node if self.contrast == "views" else pairs
        contrastive = sum((info_nce(a, b, self.temperature) for a, b in aligned), u.new_zeros(()))
        unit = [(unit_rows(a), unit_rows(b)) for a, b in pairs]
        mmd = sum((mmd_gaussian(a, b, self.mmd_bandwidth) for a, b in unit), u.new_zeros(()))
        return {
            "bpr": bpr(u, p, n),
            "reg": self.reg_weight * l2_half(u, p, n, batch_size=self.batch_size),
            "contrastive": self.cl_weight * contrastive,
            "mmd": self.mmd_weight * mmd,
        }
