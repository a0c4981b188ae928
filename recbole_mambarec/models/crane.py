"""CRANE: features refined by recursive cross-modal attention, and an item graph that follows them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError, one_of
from recbole_mambarec.layers.item_graph import ItemGraph
from recbole_mambarec.layers.losses import bpr, info_nce_distinct, l2_half
from recbole_mambarec.layers.profiles import NORMS, UserProfiles
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.layers.rca import RCA, unbiased
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.pruning import PrunedRecommender

INPUTS = ("both", "ids", "refined")


class Views(NamedTuple):
    """What one pass knows of all nodes, each ``(U, d)`` or ``(I, d)``, or of the users of a batch."""

    users: Tensor  # behaviour e'
    items: Tensor
    profiles: Tensor | None  # semantic view h of users, (B, d) in training; None without profiles
    others: Tensor | None  # in training that of users without the item of their row, (B, d); else the same
    semantic: Tensor  # h of items
    spread: Tensor  # refined content alone after the item graph, which the contrast compares with e'


class CRANE(PrunedRecommender):
    """CRANE, "Cross-Modal Attention Network with Dual Graph Learning in Multimodal Recommendation" (arXiv 2601.11151).

    The paper's, from its abstract and its figure: users have a profile per modality, made of the features of their
    items; Recursive Cross-modal Attention (:class:`~recbole_mambarec.layers.rca.RCA`) refines the features in steps
    from cross-correlations in a joint space; the item graph is built on the refined features; embeddings spread on the
    user-item and on the item graph; a contrastive loss ties the behavioural to the semantic view.

    Ours, as neither formulas nor code nor tables were available: everything else, the choices keys where nothing else
    is said. With X the projected features, Z the refined ones, e' LightGCN's users and items (trained on pruned edges,
    as in FREEDOM), S the item graph and Zbar a linear map of Z with rows of length 1: profiles are means over
    *training* items, refined by the same RCA with statistics of users; ``h_u = Zbar_u`` (none with ``user_profiles:
    False``), ``h_i = S^n (e'_i + Zbar_i)``, so that ranking trains RCA; a score is ``(e'_u + h_u) . (e'_i + h_i)``. By
    default S is only to a tenth the graph on Z, nine tenths are that on the raw features (``ii_graph: refined`` is the
    paper's, the other end is ``raw``); it is refreshed before each epoch (``ii_refresh``) without gradient. The loss
    adds to BPR ``InfoNCE(e'_u, h_u) + InfoNCE(e'_i, S^n Zbar_i)`` over the distinct users and positive items of the
    batch, and half the squares of the batch's id embeddings over the batch size. Fixed, without a key: that views are
    summed, which ones the contrast compares, the mean over LightGCN's layers, and how weights start (small steps of
    RCA, biases at 0).

    Two things keep the content from drowning the ids (measured in results/crane.md): the length of Zbar, which else
    outgrows them within an epoch (``unit_content: False``), and that in BPR the profile of a training pair's user does
    without the pair's item, whose share of the profile else tells the pair apart, and no other
    (``profile_leave_out: False``). Nothing here claims the numbers of the paper.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(4, 6.5), items=(15, 4), batch=(18, 10))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        for key in ("n_ui_layers", "n_mm_layers", "reg_weight", "cl_weight", "temperature"):
            setattr(self, key, config[key])
        self.refresh_every = config["ii_refresh"]
        self.unit_content, self.leave_out = config["unit_content"], config["profile_leave_out"]
        if not self.temperature > 0:
            raise UserError(f"temperature must be positive, got {self.temperature}")
        self.ii_input = one_of("ii_input", config["ii_input"], INPUTS)
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: unbiased(self.feature_dim(m), d) for m in self.modalities})
        self.rca = RCA(
            d,
            len(self.modalities),
            config["rca_layers"],
            config["rca_share_steps"],
            config["rca_residual"],
            config["rca_scope"],
        )
        norm = one_of("profile_norm", config["profile_norm"], NORMS)
        self.profiles = UserProfiles(data, norm) if config["user_profiles"] else None
        weights = config["ii_refined_weight"], config["mm_image_weight"]
        self.item_graph = ItemGraph(data, config["n_neighbors"], config["ii_graph"], *weights)

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory`` holds for up to two steps of RCA on all nodes; tokens and each further step take more."""
        more = max(config["rca_layers"] - 2, 0)
        if config["rca_scope"] == "token":
            return cls.step_memory._replace(users=(5.5, 1), items=(11, 14.5 + 5 * more))
        (users, of_users), (items, of_items) = cls.step_memory.users, cls.step_memory.items
        return cls.step_memory._replace(users=(users, of_users + 2.1 * more), items=(items, of_items + 2.3 * more))

    def _projected(self) -> Tensor:
        """Projected features of all items, the modalities side by side."""
        return torch.cat([self.projection[m](self.features[m]()) for m in self.modalities], dim=1)

    def _content(self, nodes: Tensor, asked: Tensor | None = None) -> Tensor:
        """Zbar of all nodes of one type, or of ``asked`` rows."""
        content = self.rca(nodes, asked)[1]
        return F.normalize(content.float(), dim=1) if self.unit_content else content

    @torch.no_grad()
    def _refresh(self) -> None:
        if self.item_graph.learns:
            self.item_graph.refresh(self.rca(self._projected())[0])

    def pre_epoch(self, epoch: int) -> None:
        """Draw the edges of this epoch and, where it is their turn, search the neighbours in the refined features."""
        super().pre_epoch(epoch)
        if self.refresh_every and epoch % self.refresh_every == 0:
            self._refresh()

    def _user_contents(self, projected: Tensor, pairs: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """h of all users; with pairs, of their users: as they are, and as if the item of their row were not theirs.

        A user of whom no item is left has no content: zeros, which no gradient passes. Biases begin at 0, so that the
        content would be 0 before it is scaled to length 1, and its gradient infinite.
        """
        profiles = self.profiles(projected)
        known = self.profiles.known(profiles)
        if pairs is None:
            return (self._content(known, profiles).masked_fill(self.profiles.nobody()[:, None], 0),) * 2
        own = profiles[pairs[0]]
        if not self.leave_out:
            return (self._content(known, own),) * 2
        others = self.profiles.without(own, projected, *pairs)
        whole, rest = self._content(known, torch.cat([own, others])).chunk(2)
        return whole, rest.masked_fill(self.profiles.nobody(pairs[0], left_out=1)[:, None], 0)

    def _views(self, pairs: tuple[Tensor, Tensor] | None = None) -> Views:
        """One pass; ``pairs`` are users and items of a batch, ``(B,)`` each."""
        if not self.item_graph.found:
            self._refresh()
        users, items = light_gcn(self.graph, self.user_embedding.weight, self.item_embedding.weight, self.n_ui_layers)
        projected = self._projected()
        content = self._content(projected)
        profiles, others = (None, None) if self.profiles is None else self._user_contents(projected, pairs)
        # ids and content side by side: one product with the graph serves both
        both = propagate(self.item_graph, torch.cat([items, content], dim=1), self.n_mm_layers)
        of_ids, of_content = both.chunk(2, dim=1)
        semantic = {"both": of_ids + of_content, "ids": of_ids, "refined": of_content}[self.ii_input]
        return Views(users, items, profiles, others, semantic, of_content)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Behavioural plus semantic view."""
        views = self._views()
        users = views.users if views.profiles is None else views.users + views.profiles
        return users, views.items + views.semantic

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, L2 of the batch's id embeddings, behavioural against semantic view."""
        views = self._views((users, positives))
        behaviour, all_items = views.users[users], views.items + views.semantic
        ranked = behaviour if views.others is None else behaviour + views.others
        ids = self.user_embedding(users), self.item_embedding(positives), self.item_embedding(negatives)
        contrast = info_nce_distinct(views.items[positives], views.spread[positives], positives, self.temperature)
        if views.profiles is not None:
            contrast = contrast + info_nce_distinct(behaviour, views.profiles, users, self.temperature)
        return {
            "bpr": bpr(ranked, all_items[positives], all_items[negatives]),
            "reg": self.reg_weight * l2_half(*ids, batch_size=self.batch_size),
            "contrastive": self.cl_weight * contrast,
        }
