"""ThreeViews: a graph network, profiles of users' items and a linear model, each of which ranks in its own way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.losses import sampled_softmax
from recbole_mambarec.layers.noise import random_order
from recbole_mambarec.layers.profile_view import ProfileView
from recbole_mambarec.layers.seen_items import SeenItems
from recbole_mambarec.layers.standardised import standardised_rows
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.item_to_item import Summands
from recbole_mambarec.models.multiease import memory_of_multiease, multiease
from recbole_mambarec.models.pgl import PGL
from recbole_mambarec.trained_apart import TrainedApart

VIEWS = ("graph", "profile", "linear")
# scores of all items that are computed at a time for single pairs (64 MiB)
_SCORES = 1 << 24
# arrays of the size of the logits that a step of the profile view holds
_LOGITS = 3.7


class ThreeViews(PGL):
    """The sum of three scores, each standardised over the items of a user and weighed.

    This package's own model. Its parts err on different pairs, because they learn by different losses from different
    pictures of a user. Standardised scores need no common scale, as in fusions of models that were trained one by one.

    Score and losses, with std(s) the scores of a user less their mean, over their standard deviation, ``X = [unit(X_1)
    | ... | unit(X_M)]``, t = ``softmax_temperature``, and W the weights of MultiEASE::

        s(u, i) = graph_weight std(g_ui) + profile_weight std(p_ui) + linear_weight std((R W)_ui)
        graph:    g = Z_u . (Z_i + S^n X),   Z = LightGCN([P_1 | ... | P_M; X]);   loss = PGL's
        profile:  p = cos(D_u^-1 R Y V, Y),   Y = (1 + S + ... + S^n) [X | I]
                  loss = mean(-ln(e^(p_ui / t) / (e^(p_ui / t) + sum_j e^(p_uj / t))))

    * ``graph``: :class:`~recbole_mambarec.models.pgl.PGL` (AAAI 2025, doi 10.1609/aaai.v39i12.33429), a free vector of
      the user per modality, spread over the user-item graph and ranked by inner products. It learns by BPR with PGL's
      contrast, by default on the whole graph.
    * ``profile``: :class:`~recbole_mambarec.layers.profile_view.ProfileView`, what a user's items say, ranked by
      cosines, with projections of its own. It learns by softmax over ``n_negatives`` random items j that all pairs of a
      batch share, of which the user's own do not count, and a pair's item is left out of its user's profile, as in this
      package's design of CRANE. Items as what users are made of: FISM (KDD 2013, doi 10.1145/2487575.2487589), NAIS
      (TKDE 2018, arXiv 1809.07053).
    * ``linear``: :class:`~recbole_mambarec.models.multiease.MultiEASE`, in closed form, computed once.

    Both trained views learn in one training. The softmax has learnt what it can after some hundred steps, BPR after
    thousands: the profile view has a learning rate of its own, which falls to zero over ``profile_steps`` steps (a
    cosine), and no parameter in common with the graph view. A weight of 0 leaves the profile or the linear view out.
    """

    known_items: Tensor

    own_design = True
    step_memory = StepMemory(users=(0, 10.5), items=(7.5, 6), batch=(0.5, 22.5), tables=10)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        data = self.data
        self.weights = {view: float(config[f"{view}_weight"]) for view in VIEWS}
        if not (self.weights["graph"] > 0 and min(self.weights.values()) >= 0):
            raise UserError(
                "graph_weight must be above 0, and profile_weight and linear_weight numbers from 0, got "
                + ", ".join(map(str, self.weights.values()))
            )
        self.softmax_temperature, self.profile_learning_rate = config["softmax_temperature"], config["profile_lr"]
        self.profile_epochs = config["profile_steps"] / math.ceil(len(data.users) / self.batch_size)
        for key in ("softmax_temperature", "profile_lr", "profile_steps", "n_negatives"):
            if not config[key] > 0:
                raise UserError(f"{key} must be positive, got {config[key]}")
        # items that nobody has bought are no negatives, as in RecBole's sampler
        known = torch.from_numpy(np.unique(data.items).astype(np.int64))
        self.register_buffer("known_items", known, persistent=False)
        self.n_negatives = min(config["n_negatives"], len(known))
        tables = self.feature_tables(frozen=config["freeze_features"])
        self.profile = ProfileView(
            data, tables, self.item_graph, self.n_mm_layers, self.embedding_size, config["history_dropout"]
        )
        self.profile_learns = True
        self.seen = SeenItems(*data.pairs, data.n_users, data.n_items)
        started = time.perf_counter()
        self.linear = Summands(multiease(config, data) if self.weights["linear"] else (), data)
        self.computing_seconds = time.perf_counter() - started

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory``, and that of many sampled items and of the linear view.

        Raises:
            UserError: there are more than ``dense_items`` items, and the solver is not sparse.
        """
        use, d, count = cls.step_memory, config["embedding_size"], len(data.modalities)
        if config["profile_weight"]:
            # logits of the sampled items, where they are larger than what the graph view's step holds
            logits = _LOGITS * min(config["n_negatives"], data.n_items) / d
            use = use._replace(batch=(use.batch[0] + max(0.0, logits - use.batch[1] * count), use.batch[1]))
        if config["linear_weight"]:
            # it is computed before the first step, which holds a quarter of it
            linear = memory_of_multiease(cls.__name__, config, data)
            fixed, each = use.items
            more = max(linear.items[0] / 4, linear.items[0] - fixed - each * count)
            use = use._replace(items=(fixed + more, each), edges=linear.edges)
        return use

    @property
    def item_embedding(self) -> nn.Embedding:
        """The ids of the items, which the profile view has."""
        return self.profile.item_embedding

    # ------------------------------------------------------------------ the profile view's training

    def trained_apart(self) -> dict[str, TrainedApart]:
        """The profile view."""
        if not self.weights["profile"]:
            return {}
        rate = self.profile_learning_rate
        return {"profile": TrainedApart(self.profile.parameters(), learning_rate=rate, schedule=self._profile_rate)}

    def _profile_rate(self, epoch: int) -> float:
        return (1 + math.cos(math.pi * min(epoch / self.profile_epochs, 1))) / 2

    def pre_epoch(self, epoch: int) -> None:
        """Draw this epoch's edges."""
        super().pre_epoch(epoch)
        self.profile_learns = self._profile_rate(epoch) > 0

    def losses_before_step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The softmax of the profiles, which users with a single item do not enter."""
        if self.weights["profile"] and self.profile_learns:
            others = self.known_items[random_order(len(self.known_items), users.device)[: self.n_negatives]]
            profiles, empty, items = self.profile.of_pairs(users, positives)
            seen = self.seen(users, among=others) > 0
            losses = sampled_softmax(profiles, items[positives], items[others], seen, self.softmax_temperature)
            yield "profile", losses.masked_fill(empty, 0.0).mean()

    # ------------------------------------------------------------------ scores

    def embed(self) -> tuple[Tensor, Tensor]:
        """Both trained views side by side; cosines of the profile view are inner products of rows of length 1."""
        users, items = self.graph_view()
        if not self.weights["profile"]:
            return users, items
        profiles, contents, _ = self.profile()
        return torch.cat([users, unit_rows(profiles)], dim=1), torch.cat([items, unit_rows(contents)], dim=1)

    @property
    def _graph_width(self) -> int:
        return len(self.modalities) * self.embedding_size

    def trained_views(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Embeddings of users and items in each trained view with a weight, in RecBole's numbering."""
        users, items = self.scored_embeddings()
        parts = {"graph": slice(self._graph_width), "profile": slice(self._graph_width, None)}
        return {view: (users[:, part], items[:, part]) for view, part in parts.items() if self.weights[view]}

    def with_new_items_scaled(self, items: Tensor) -> Tensor:
        """Each view is scaled by itself, as it is standardised by itself."""
        scaled = super().with_new_items_scaled
        return torch.cat([scaled(part) for part in items.tensor_split([self._graph_width], dim=1)], dim=1)

    def _scores(self, users: Tensor) -> Tensor:
        """Weighted scores of all views, of users in RecBole's numbering, ``(B, n_items)``, without padding."""
        views = {view: rows[users] @ items[1:].T for view, (rows, items) in self.trained_views().items()}
        if self.weights["linear"]:
            views["linear"] = self.linear.of_users(users)[:, 1:]
        return torch.stack([self.weights[view] * standardised_rows(scores) for view, scores in views.items()]).sum(0)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of each user for all items, flattened ``(B * n_items,)``; the padding item scores minus infinity."""
        users = interaction[self.USER_ID]
        scores = self.with_cold_users(F.pad(self._scores(users), (1, 0)), users)
        scores[:, 0] = -torch.inf
        return scores.view(-1)

    def predict(self, interaction) -> Tensor:
        """Scores of user-item pairs, ``(B,)``; they take those of all items, as each view is standardised over them."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        at_once = max(1, _SCORES // self.data.n_items)
        rows = [self._scores(u).gather(1, i[:, None] - 1) for u, i in zip(users.split(at_once), items.split(at_once))]
        return self.with_cold_users(torch.cat(rows)[:, 0], users, items)
