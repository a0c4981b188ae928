"""MMSSL: graphs of users' modal preferences, learnt against a discriminator, with a contrast of modality and ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.discriminator import Discriminator
from recbole_mambarec.layers.losses import bpr, info_nce_both, l2_half
from recbole_mambarec.layers.rows import all_rows, processes
from recbole_mambarec.layers.seen_items import SeenItems
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of
from recbole_mambarec.models.mmssl_graphs import PickedItems, received, scaled_rows
from recbole_mambarec.trained_apart import TrainedApart
from recbole_mambarec.value_checks import check_share

# fixed in the published code
_NOISE, _PENALTY, _EPSILON = 1e-5, 0.3, 1e-8
# rows of a batch, as wide as the catalogue, that a step holds in any case and per modality
_WIDE = (2.6, 8.8)


class _Views(NamedTuple):
    """Users and items: final; by modality, of the features and of the ids on the learnt graphs."""

    final: tuple[Tensor, Tensor]
    features: dict[str, tuple[Tensor, Tensor]]
    ids: dict[str, tuple[Tensor, Tensor]]


class MMSSL(MultimodalRecommender):
    """MMSSL, "Multi-Modal Self-Supervised Learning for Recommendation" (WWW 2023, arXiv 2302.10632).

    Features spread to users and back to items over the interactions; ids spread over graphs of the items that look
    preferred in a modality, and then over the interactions. A discriminator, trained apart before each step, tells the
    users' similarities to all items in a modality (training items left out) apart from noisy rows of interactions; the
    model learns to mislead it. A contrast ties each modality's users to the final ones.

    Final embeddings and loss, with B_u = D_u^-1/2 R, B_i = D_i^-1/2 R^T, G_m the graph of preferred items, scaled in
    the same way, and J the discriminator's mean score of the similarities::

        x_mu = B_u drop(X_m);   x_mi = B_i x_mu;   z_m = [G_mu I; G_mi U]
        [u_0; i_0] = [U; I] + id_cat_rate unit(mean_m(z_m) W);   u_l = B_u i_(l-1);   i_l = B_i u_l
        user = mean_l(u_l) + model_cat_rate sum_m unit(x_mu)
        item = mean_l(i_l) + model_cat_rate sum_m unit(x_mi)
        loss = BPR + reg_weight L2(user, item) + feature_reg_weight sum_m |x_m|^2 / (2 n_items)
               + cl_weight sum_m InfoNCE(z_mu, user) - adversarial_weight J

    Each row of the last u_l and i_l passes a softmax over its coordinates. The other users of the batch in z_mu are
    negatives in InfoNCE, too; the squares of x_m are those of all users and items.

    ``variant: released`` (default) is what the published code computes. Its attention between modalities changes
    nothing, as its values are those of the modality that asks, so that a mean and a linear map remain. B_u and B_i are
    normalised on one side. After the ``graph_steps`` steps that collect items, a step builds G_m from them; as that
    step collects none, a ``graph_steps`` of 1 leaves empty graphs from the fourth step of an epoch on. With several
    items per user, they are booked for the wrong users. In ``variant: paper`` modalities attend to each other, every
    step collects, and items are booked for their users.

    The users of a published batch are distinct; here a batch is one of interactions.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(12.1, 2.2), items=(5.9, 1.4), batch=(0.1, 0))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        _check(config)
        d, data = self.embedding_size, self.data
        self.variant, self.n_heads, self.n_ui_layers = variant_of(config), config["n_heads"], config["n_ui_layers"]
        self.id_rate, self.feature_rate = config["id_cat_rate"], config["model_cat_rate"]
        self.dropout_prob = config["dropout_prob"]
        self.reg_weight, self.feature_reg_weight = config["reg_weight"], config["feature_reg_weight"]
        self.cl_weight, self.temperature = config["cl_weight"], config["temperature"]
        self.adversarial_weight, self.penalty_weight = config["adversarial_weight"], config["penalty_weight"]
        self.noise_weight, self.real_score_weight = _NOISE / config["real_temperature"], config["real_score_weight"]
        self.discriminator_lr = config["discriminator_lr"]
        self.user_embedding, self.item_embedding = self.id_embedding(data.n_users), self.id_embedding(data.n_items)
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        for layer in self.projection.values():
            nn.init.xavier_uniform_(layer.weight)
        self.attention = nn.ParameterDict({"output": nn.init.xavier_uniform_(torch.empty(self.n_heads * d, d))})
        if self.variant == "paper":
            for name in ("query", "key"):
                self.attention[name] = nn.init.xavier_uniform_(torch.empty(d, d))
        self.discriminator = Discriminator(data.n_items, config["discriminator_dropout"])
        interactions = data.user_item_weighted("binary").scipy()
        self.user_item, self.item_user = (scaled_rows(a) for a in (interactions, interactions.T.tocsr()))
        self.seen = SeenItems(*data.pairs, data.n_users, data.n_items)
        count = int(data.n_items * check_share("picked_share", config["picked_share"]))
        self.picked = PickedItems(self.modalities, count, config["graph_steps"], self.variant == "paper")

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """``step_memory``, the discriminator's weights, and rows of a batch that are as wide as the catalogue."""
        items, batch = cls.step_memory.items, cls.step_memory.batch
        wide = data.n_items / config["embedding_size"]
        # parameter, gradient, two moments, best epoch
        weights = 5 * wide * (1 / 4 + 1 / 32)
        # every process trains the discriminator on the rows of all
        wide *= processes()
        return cls.step_memory._replace(
            items=(items[0] + weights, items[1]),
            batch=(batch[0] + _WIDE[0] * wide, batch[1] + _WIDE[1] * wide),
        )

    # ------------------------------------------------------------------ the model

    def _modal(self, modality: str) -> tuple[Tensor, Tensor]:
        """Features as users receive them, and back at the items."""
        projected = F.dropout(self.projection[modality](self.features[modality]()), self.dropout_prob, self.training)
        users = self.user_item.propagate(projected)
        return users, self.item_user.propagate(users)

    def _liked(self, modality: str) -> tuple[Tensor, Tensor]:
        """Ids spread over the learnt graphs of a modality."""
        user_ids, item_ids = self.user_embedding.weight, self.item_embedding.weight
        if self.picked.edges is None:
            return self.user_item.propagate(item_ids), self.item_user.propagate(user_ids)
        users, items = self.picked.edges[modality]
        return received(item_ids[items], users, len(user_ids)), received(user_ids[users], items, len(item_ids))

    def _attend(self, ids: list[Tensor]) -> Tensor:
        """Mean over modalities of what the attention makes of ``ids``, ``(n, d)`` each."""
        output = self.attention["output"]
        if self.variant == "released":
            return torch.stack(ids).mean(dim=0) @ output.view(self.n_heads, *ids[0].shape[1:], -1).sum(dim=0)
        values = torch.stack(ids, dim=1)
        asking, asked = ((values @ self.attention[name]).unflatten(2, (self.n_heads, -1)) for name in ("query", "key"))
        scores = torch.einsum("nmhe,nkhe->nhmk", asking, asked) / asking.shape[-1] ** 0.5
        joined = torch.einsum("nhmk,nkd->nmhd", scores.softmax(dim=-1), values.to(scores.dtype))
        return (joined.flatten(2) @ output).mean(dim=1)

    def _views(self) -> _Views:
        features = {m: self._modal(m) for m in self.modalities}
        ids = {m: self._liked(m) for m in self.modalities}
        users, items = (
            table.weight + self.id_rate * unit_rows(self._attend([pair[side] for pair in ids.values()]))
            for side, table in enumerate((self.user_embedding, self.item_embedding))
        )
        totals = [users, items]
        for layer in range(1, self.n_ui_layers + 1):
            finish = torch.softmax if layer == self.n_ui_layers else lambda x, dim: x
            users = finish(self.user_item.propagate(items), dim=1)
            items = finish(self.item_user.propagate(users), dim=1)
            totals = [totals[0] + users, totals[1] + items]
        final = (
            total / (self.n_ui_layers + 1)
            + self.feature_rate * sum(unit_rows(pair[side]) for pair in features.values())
            for side, total in enumerate(totals)
        )
        return _Views(tuple(final), features, ids)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Mean of the layers, and the directions of the features."""
        return self._views().final

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, two regularisers, the contrast, and what the discriminator says of the similarities."""
        views = self._views()
        (all_users, all_items), everyone = views.final, all_rows(users)
        rows = all_users[users], all_items[positives], all_items[negatives]
        contrast = sum(info_nce_both(pair[0][users], rows[0], self.temperature) for pair in views.ids.values())
        squares = sum(x.float().square().sum() for pair in views.features.values() for x in pair)
        with torch.autocast(users.device.type, enabled=False):
            looks = similarities(views.features, everyone, self.seen(everyone))
            judged = self.discriminator(torch.cat(list(looks.values()))).mean()
        if self.training:
            self.picked.add(everyone, {m: x.detach() for m, x in looks.items()})
        return {
            "bpr": bpr(*rows),
            "reg": self.reg_weight * l2_half(*rows, batch_size=self.batch_size),
            "feature_reg": self.feature_reg_weight * 0.5 * squares / self.data.n_items,
            "contrastive": self.cl_weight * contrast,
            "adversarial": -self.adversarial_weight * judged,
        }

    # ------------------------------------------------------------------ the discriminator and the learnt graphs

    def trained_apart(self) -> dict[str, TrainedApart]:
        """The discriminator; without weight decay."""
        parameters = self.discriminator.parameters()
        return {"discriminator": TrainedApart(parameters, self.discriminator_lr, 0.0, {"betas": (0.5, 0.9)})}

    def losses_before_step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The discriminator's loss; its batch norms need all rows, so all processes train it on the whole batch."""
        with torch.autocast(users.device.type, enabled=False):
            parts = self.discriminator_parts(all_rows(users))
        yield "discriminator", torch.stack(list(parts.values())).sum()

    def discriminator_parts(self, users: Tensor) -> dict[str, Tensor]:
        """Mean score of similarities, minus that of interactions, and the penalty for slopes other than 1."""
        with torch.no_grad():
            views, seen = self._views(), self.seen(users)
            fake = torch.cat(list(similarities(views.features, users, seen).values()))
            noise = -torch.log(-torch.log(torch.rand(seen.shape, device=seen.device) + _EPSILON) + _EPSILON)
            real = (seen + self.noise_weight * noise).softmax(dim=1)
            real += self.real_score_weight * _similarity(*views.final, users, seen)
            real = unit_rows(real)
            share = torch.rand(len(fake), 1, device=fake.device)
        judge = self.discriminator
        fake, real = judge.first(fake), judge.first(real).repeat(len(self.modalities), 1)
        penalty = _PENALTY * (judge.slopes(fake + share * (real - fake)) - 1.0).square().mean()
        return {
            "fake": judge.scores(fake).mean(),
            "real": -judge.scores(real).mean(),
            "penalty": self.penalty_weight * penalty,
        }

    def pre_epoch(self, epoch: int) -> None:
        """Collect items for the learnt graphs anew."""
        self.picked.begin_epoch()

    def other_parameter(self) -> dict:
        """The edges of the learnt graphs, which no weights bring back."""
        return {"learnt": self.picked.edges}

    def load_other_parameter(self, para: dict) -> None:
        """Take over what :meth:`other_parameter` has returned."""
        device, learnt = self.user_embedding.weight.device, para["learnt"]
        self.picked.edges = None if learnt is None else {m: edges.to(device) for m, edges in learnt.items()}
        self._scored = None


def similarities(features: dict[str, tuple[Tensor, Tensor]], chosen: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """:func:`_similarity` in each modality."""
    return {m: _similarity(*pair, chosen, seen) for m, pair in features.items()}


def _similarity(users: Tensor, items: Tensor, chosen: Tensor, seen: Tensor) -> Tensor:
    """Products of the ``chosen`` users with all items, 0 for those ``seen``, rows of length 1: ``(B, I)``."""
    return unit_rows((users[chosen].float() @ items.float().T) * (1.0 - seen))


def _check(config) -> None:
    if config["variant"] == "paper" and config["embedding_size"] % config["n_heads"]:
        raise UserError(f"embedding_size {config['embedding_size']} must be a multiple of n_heads, {config['n_heads']}")
    if config["graph_steps"] < 1:
        raise UserError(f"graph_steps must be a number of steps from 1, got {config['graph_steps']}")
    if not config["real_temperature"] > 0:
        raise UserError(f"real_temperature must be positive, got {config['real_temperature']}")
    rates = config["discriminator_dropout"]
    if len(rates) != 2 or not all(isinstance(rate, (int, float)) and 0 <= rate < 1 for rate in rates):
        raise UserError(f"discriminator_dropout must be two rates from 0 to below 1, got {rates}")
