"""MVGAE: a variational graph auto-encoder per modality, joined by how sure each is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.noise import node_noise
from recbole_mambarec.layers.propagation import split_nodes
from recbole_mambarec.layers.rows import all_rows, processes
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.base import MultimodalRecommender, variant_of

NOISE, LARGEST_LOG_VARIANCE = 0.1, 10.0


class MeanConvolution(nn.Module):
    """Mean of ``x W`` over a node and its neighbours plus a bias, at length 1, then dropout: ``(n, in) -> (n, d)``.

    Args:
        in_dim, out_dim: widths of input and output.
        dropout: rate of the dropout.
    """

    def __init__(self, in_dim: int, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(in_dim, out_dim)))
        self.bias, self.dropout = nn.Parameter(torch.zeros(out_dim)), dropout

    def forward(self, x: Tensor, graph: SparseGraph) -> Tensor:
        """One hop over a graph of means with self-loops."""
        return F.dropout(unit_rows(graph.propagate(x @ self.weight) + self.bias), self.dropout, self.training)


class Encoder(nn.Module):
    """Mean and log variance of all nodes from the features of items and the preferences of users.

    Args:
        n_users: how many of the nodes are users.
        in_dim: width of the items' features.
        latent_dim: width at which preferences and features enter.
        dim: width d of mean and variance.
        n_layers: hidden layers, 1 or 2.
        dropout: rate behind each convolution.
    """

    def __init__(self, n_users: int, in_dim: int, latent_dim: int, dim: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.preference = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, latent_dim)))
        self.entry = nn.Linear(in_dim, latent_dim)
        widths = [latent_dim, *[dim] * n_layers]
        self.hidden = nn.ModuleList(MeanConvolution(a, dim, dropout) for a in widths[:-1])
        self.gate = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_layers))
        self.mean, self.log_variance = (
            nn.ModuleDict(
                {"spread": MeanConvolution(dim, dim, dropout), "gate": nn.Linear(dim, dim), "own": nn.Linear(dim, dim)}
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, graph: SparseGraph) -> tuple[Tensor, Tensor]:
        """``(I, in_dim)`` -> mean and log variance, ``(U + I, d)`` each."""
        x = unit_rows(torch.cat([self.preference, self.entry(features).float()]))
        for convolution, gate in zip(self.hidden, self.gate):
            x = F.leaky_relu(gate(F.leaky_relu(convolution(x, graph))))
        mean, log_variance = (
            head["gate"](F.leaky_relu(head["spread"](x, graph))) + F.leaky_relu(head["own"](x))
            for head in (self.mean, self.log_variance)
        )
        return mean, log_variance


def product_of_experts(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the product of two Gaussians, given by theirs."""
    precisions = [1.0 / (log_variance.exp() + 1e-8) for _, log_variance in (a, b)]
    total = precisions[0] + precisions[1]
    return (a[0] * precisions[0] + b[0] * precisions[1]) / total, -total.log()


class MVGAE(MultimodalRecommender):
    """MVGAE, "Multi-Modal Variational Graph Auto-Encoder for Recommendation Systems" (TMM 2022, doi
    10.1109/TMM.2021.3111487).

    Each modality, and a table of item ids, is encoded on the user-item graph to a Gaussian per node (:class:`Encoder`).
    The joint Gaussian is their product, in which an expert counts as much as it is sure. The joint Gaussian and each
    expert are to rank by samples and to stay near the standard Gaussian.

    Final embeddings and loss, with b the modalities and the ids (F_ids = I), e standard normal noise, g the joint
    Gaussian and each expert, and both terms summed over g::

        mean_b, var_b = Encoder_b([P_b; F_b])
        mean = var sum_b mean_b / var_b;   var = 1 / sum_b (1 / var_b)
        [user; item] = sigma(mean);   z_g = sigma(mean_g + 0.1 e sqrt(var_g))
        loss = sum_g (sum(-log2 sigma(y_g)) + beta KL(g, standard Gaussian))
        paper:     y_g = z_gu . z_gi - z_gu . z_gj
        released:  y_g = sigma(z_gu . z_gp) - sigma(z_gu . z_gq),   p and q users (see below)

    The loss is a *sum* over the batch; the divergence is a mean over nodes. More than two layers act as two.

    The published code (MMRec; ``variant: released``, the default) hardly learns to rank: in the loss the numbers of
    items are not moved behind those of users, so that the positive p and the negative q are *users*; q is the best of
    the negatives of all rows, often an item that the user likes; an inner product of 64 values between 0 and 1 is near
    16, where a sigmoid around it is flat and leaves hardly any gradient; preferences and ids are not parameters and
    stay as drawn. ``variant: paper`` has none of the four.
    """

    # of a step at latent_dim 128
    step_memory = StepMemory(users=(39.5, 37.5), items=(38, 36), batch=(15, 4.5))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data, latent = self.embedding_size, self.data, config["latent_dim"]
        self.beta, n_layers = config["beta"], min(config["n_ui_layers"], 2)
        if n_layers < 1:
            raise UserError(f"n_ui_layers must be at least 1, got {config['n_ui_layers']}")
        self.released = variant_of(config) == "released"
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.item_embedding = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_items, d)))
        self.ids = self.branch_name("ids")
        widths = {m: self.feature_dim(m) for m in self.modalities} | {self.ids: d}
        self.encoder = nn.ModuleDict(
            {
                name: Encoder(data.n_users, width, latent, d, n_layers, config["dropout_prob"])
                for name, width in widths.items()
            }
        )
        if self.released:
            for table in (self.item_embedding, *(encoder.preference for encoder in self.encoder.values())):
                table.requires_grad_(False)
        self.graph = data.mean_with_self

    def _gaussians(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The joint Gaussian of all nodes and each expert's."""
        experts = {m: self.encoder[m](self.features[m](), self.graph) for m in self.modalities}
        experts[self.ids] = self.encoder[self.ids](self.item_embedding, self.graph)
        joint, *others = experts.values()
        for expert in others:
            joint = product_of_experts(joint, expert)
        return {"joint": joint} | {f"expert {name}": expert for name, expert in experts.items()}

    def embed(self) -> tuple[Tensor, Tensor]:
        """Sigmoids of the joint means."""
        return split_nodes(self._gaussians()["joint"][0].sigmoid(), self.data.n_users)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Reconstruction and divergence, summed over the joint Gaussian and the experts."""
        shift = 0 if self.released else self.data.n_users
        ranking = divergence = users.new_zeros((), dtype=torch.float32)
        for mean, log_variance in self._gaussians().values():
            log_variance = log_variance.clamp(max=LARGEST_LOG_VARIANCE)
            z = (mean + NOISE * node_noise(mean) * (log_variance / 2).exp()).sigmoid()
            rows = z[users], z[positives + shift], z[negatives + shift]
            ranking = ranking + reconstruction(*rows, self.released)
            divergence = divergence + standard_divergence(mean, log_variance)
        return {"reconstruction": ranking, "kl": self.beta * divergence}


def reconstruction(users: Tensor, positives: Tensor, negatives: Tensor, released: bool) -> Tensor:
    """Sum of ``-log2 sigmoid(s_p - s_j)`` over the rows of a batch, ``(B, d)`` each, s an inner product.

    ``released``: s is the sigmoid of an inner product, and j is the best of the negatives of all rows.
    """
    preferred = (users * positives).sum(dim=1)
    if released:
        candidates = all_rows(negatives)
        with torch.no_grad():
            # of sigmoids that are equal in float32, the first counts as the largest
            hardest = torch.cat([(block @ candidates.T).sigmoid().argmax(dim=1) for block in users.split(512)])
        other = (users * candidates[hardest]).sum(dim=1)
        margins = preferred.sigmoid() - other.sigmoid()
    else:
        margins = preferred - (users * negatives).sum(dim=1)
    return F.softplus(-margins).sum() * processes() / math.log(2)


def standard_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of Gaussians from the standard one, summed over coordinates, its mean over nodes."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()
