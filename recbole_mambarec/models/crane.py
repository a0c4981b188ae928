"""CRANE: features refined by recursive cross-modal attention, and an item graph that follows them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.catalogue_attention import CatalogueAttention
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.item_graph import ItemGraph
from recbole_mambarec.layers.losses import bpr, info_nce_distinct, l2_half
from recbole_mambarec.layers.profiles import NORMS, UserProfiles
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.layers.rca import RCA, unbiased
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import variant_of
from recbole_mambarec.models.pruning import PrunedRecommender
from recbole_mambarec.value_checks import check_choice

INPUTS = ("both", "ids", "refined")
# of the attention in the published code
HEADS = 4
RELEASED_MEMORY = StepMemory(users=(6.5, 0), items=(7.5, 8.5), batch=(5.5, 0.5))


class SemanticViews(NamedTuple):
    """What one pass computes: of all users ``(U, d)`` and items ``(I, d)``, or where pairs are given of their users."""

    users: Tensor  # behaviour e'
    items: Tensor
    profiles: Tensor | None  # h of users, (U, d) or (B, d); None without profiles
    target_profiles: Tensor | None  # the same, of each pair's user without its item: what ranking uses
    semantic: Tensor  # h of items
    spread: Tensor  # S^n Zbar, which the contrast compares with e'


class CRANE(PrunedRecommender):
    """CRANE, "Cross-Modal Attention Network with Dual Graph Learning in Multimodal Recommendation" (ACM TOMM 2026,
    arXiv 2601.11151).

    From the paper's abstract and figure: users have a profile per modality, made of the features of their items;
    Recursive Cross-modal Attention (:class:`~recbole_mambarec.layers.rca.RCA`) refines the features in steps, from
    cross-correlations in a joint space; the item graph is built on the refined features; embeddings are propagated over
    the user-item and the item graph; a contrastive loss ties the behavioural to the semantic view. Everything else in
    the default, ``variant: paper``, is this package's design: formulas and tables were not available, and the published
    code has none of these parts. Nothing here claims the numbers of the paper.

    Final embeddings and loss, with ``X = [X_1 | ... | X_M]``, S_x the graph of the items nearest in x, and A with a
    fresh draw of edges in each training epoch::

        Z_i = unit(RCA(X) W);   Z_u = unit(RCA(D_u^-1 R X) W)
        user = H_u + Z_u;   item = H_i + S^n (H_i + Z_i),   S = 0.9 S_F + 0.1 S_RCA(X)
        loss = BPR + cl_weight (InfoNCE(H_u, Z_u) + InfoNCE(H_i, S^n Z_i)) + reg_weight L2(U, I)

    The correlations within RCA are statistics of the items for Z_i and of the users for Z_u; ``user_profiles: False``
    leaves Z_u out. InfoNCE is over the distinct users and positive items of the batch. The graph on refined features
    has the weight ``ii_refined_weight`` (``ii_graph: refined`` is the paper's graph, ``raw`` the other extreme) and is
    searched anew before each epoch (``ii_refresh``), without gradient; ranking trains RCA through Z.

    Two things keep the content from drowning the ids (measured in results/crane.md): rows of Z have length 1, as they
    would outgrow the ids within an epoch (``unit_content: False``), and in BPR the profile of a pair's user leaves out
    the pair's item, which would otherwise give that pair away (``profile_leave_out: False``). The authors' figure adds
    each step of RCA to the projected input (``rca_residual: input``), not to the step before.

    ``variant: released`` is the code that the abstract names (MKC-Lab/CRANE): in each modality every item attends to
    all items (:class:`~recbole_mambarec.layers.catalogue_attention.CatalogueAttention`, one for all modalities), their
    mean is propagated over FREEDOM's item graph and added to LightGCN's items; the loss is BPR alone. The arithmetic of
    a step grows with the square of the catalogue, its memory does not. The preset ``released`` gives it the authors'
    settings. Keys of parts that it does not have are without effect.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(4, 6.5), items=(15, 4), batch=(18, 10))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.reg_weight, self.cl_weight = config["reg_weight"], config["cl_weight"]
        self.released = variant_of(config) == "released"
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        if self.released:
            self._init_released(config)
            return
        self.refresh_every, self.temperature = config["ii_refresh"], config["temperature"]
        self.unit_content, self.leave_out = config["unit_content"], config["profile_leave_out"]
        if not self.temperature > 0:
            raise UserError(f"temperature must be positive, got {self.temperature}")
        self.ii_input = check_choice("ii_input", config["ii_input"], INPUTS)
        self.projection: ModuleDict[nn.Module] = ModuleDict(
            {m: unbiased(self.feature_dim(m), d) for m in self.modalities}
        )
        rca_keys = ("rca_layers", "rca_share_steps", "rca_residual", "rca_scope")
        self.rca = RCA(d, len(self.modalities), *(config[key] for key in rca_keys))
        norm = check_choice("profile_norm", config["profile_norm"], NORMS)
        self.profiles = UserProfiles(data, norm) if config["user_profiles"] else None
        weights = config["ii_refined_weight"], config["mm_image_weight"]
        self.item_graph = ItemGraph(data, config["n_neighbors"], config["ii_graph"], *weights)

    def _init_released(self, config) -> None:
        """The parts of the published code, whose lists of neighbours begin with the item itself."""
        d, width = self.embedding_size, config["feat_embed_dim"]
        self.projection = ModuleDict(
            {m: nn.Sequential(nn.Linear(self.feature_dim(m), width), nn.Linear(width, d)) for m in self.modalities}
        )
        self.attention = CatalogueAttention(d, HEADS)
        self.frozen_graph = self.data.mixed_item_graph(config["n_neighbors"] + 1, config["mm_image_weight"])

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory`` is that of up to two steps of RCA on all nodes; tokens and further steps take more."""
        if config["variant"] == "released":
            return RELEASED_MEMORY
        more = max(config["rca_layers"] - 2, 0)
        if config["rca_scope"] == "token":
            return cls.step_memory._replace(users=(5.5, 1), items=(11, 14.5 + 5 * more))
        return cls.step_memory._replace(users=(4, 6.5 + 2.1 * more), items=(15, 4 + 2.3 * more))

    def _projected(self) -> Tensor:
        """X: projected features of all items, the modalities side by side, ``(I, M d)``."""
        return torch.cat([self.projection[m](self.features[m]()) for m in self.modalities], dim=1)

    def _content(self, nodes: Tensor, queries: Tensor | None = None) -> Tensor:
        """Zbar of ``nodes``, all of one type, or of ``queries``, which their statistics refine."""
        content = self.rca(nodes, queries)[1]
        return unit_rows(content) if self.unit_content else content

    @torch.no_grad()
    def _refresh(self) -> None:
        if self.item_graph.learns:
            self.item_graph.refresh(self.rca(self._projected())[0])

    def pre_epoch(self, epoch: int) -> None:
        """Draw this epoch's edges and, every ``ii_refresh`` epochs, search the neighbours in the refined features."""
        super().pre_epoch(epoch)
        if not self.released and self.refresh_every and epoch % self.refresh_every == 0:
            self._refresh()

    def _user_contents(self, projected: Tensor, pairs: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """h of all users, twice; or h of the users of ``pairs``, with and without the item of their pair.

        Where no item is left, h is zero without gradient: as biases start at 0, the content would be 0 before it is
        scaled to length 1, and its gradient infinite.
        """
        profiles = self.profiles(projected)
        non_empty = self.profiles.non_empty(profiles)
        if pairs is None:
            return (self._content(non_empty, profiles).masked_fill(self.profiles.is_empty()[:, None], 0),) * 2
        whole = profiles[pairs[0]]
        if not self.leave_out:
            return (self._content(non_empty, whole),) * 2
        rest = self.profiles.without(whole, projected, *pairs)
        h, target_h = self._content(non_empty, torch.cat([whole, rest])).chunk(2)
        return h, target_h.masked_fill(self.profiles.is_empty(pairs[0], excluding=1)[:, None], 0)

    def _views(self, pairs: tuple[Tensor, Tensor] | None = None) -> SemanticViews:
        """One pass; ``pairs`` are users and items of a batch, ``(B,)`` each."""
        if not self.item_graph.found:
            self._refresh()
        users, items = light_gcn(self.graph, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)
        projected = self._projected()
        content = self._content(projected)
        contents = (None, None) if self.profiles is None else self._user_contents(projected, pairs)
        # ids and content side by side: one product with the graph serves both
        both = propagate(self.item_graph, torch.cat([items, content], dim=1), self.n_mm_layers)
        ids, spread = both.chunk(2, dim=1)
        semantic = {"both": ids + spread, "ids": ids, "refined": spread}[self.ii_input]
        return SemanticViews(users, items, *contents, semantic, spread)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Behavioural plus semantic view; as released, LightGCN plus attended features over the item graph."""
        if self.released:
            ids = self.user_embedding.weight, self.item_embedding.weight
            users, items = light_gcn(self.graph, *ids, self.n_ui_layers)
            attended = [self.attention(self.projection[m](self.features[m]())) for m in self.modalities]
            return users, items + propagate(self.frozen_graph, torch.stack(attended).mean(dim=0), self.n_mm_layers)
        views = self._views()
        users = views.users if views.profiles is None else views.users + views.profiles
        return users, views.items + views.semantic

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, L2 of the batch's id embeddings, behavioural against semantic view; as released, BPR alone."""
        if self.released:
            all_users, all_items = self.embed()
            return {"bpr": bpr(all_users[users], all_items[positives], all_items[negatives])}
        views = self._views((users, positives))
        behaviour, all_items = views.users[users], views.items + views.semantic
        u = behaviour if views.target_profiles is None else behaviour + views.target_profiles
        ids = self.user_embedding(users), self.item_embedding(positives), self.item_embedding(negatives)
        contrast = info_nce_distinct(views.items[positives], views.spread[positives], positives, self.temperature)
        if views.profiles is not None:
            contrast = contrast + info_nce_distinct(behaviour, views.profiles, users, self.temperature)
        return {
            "bpr": bpr(u, all_items[positives], all_items[negatives]),
            "reg": self.reg_weight * l2_half(*ids, batch_size=self.batch_size),
            "contrastive": self.cl_weight * contrast,
        }
