"""A plain implementation of MambaRec's released form: the reference for speed and the oracle of tests.

Nothing is shared with the package but the graphs' entries. Every cost of the published code is kept: two projection
steps over the full tables, convolutions on 1 x 1 maps, DREAM run a second time for the discrepancy, a B x B x d
tensor of differences, sparse products in coordinate form, one optimizer call per tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.data.graphs.sparse import SparseGraph


class PlainDream(nn.Module):
    """Five convolutions on maps, attention over channels and positions, a gate, a mixing convolution."""

    def __init__(self, d: int) -> None:
        super().__init__()
        kernels = [(1, 1, 0)] + [(3, dilation, dilation) for dilation in (6, 12, 18)] + [(1, 1, 0)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(d, d, size, dilation=dilation, padding=padding) for size, dilation, padding in kernels
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(d) for _ in kernels)
        self.channel = nn.Conv2d(5 * d, 1, 1, bias=False)
        self.spatial = nn.Conv2d(5 * d, 1, 1, bias=False)
        self.mix = nn.Conv2d(5 * d, d, 1)
        self.mix_norm = nn.BatchNorm2d(d)

    def forward(self, vectors: Tensor) -> Tensor:
        """``(n, d)`` -> ``(n, d)``."""
        maps = vectors[:, :, None, None]
        inputs = [maps] * 4 + [maps.mean(dim=(2, 3), keepdim=True)]
        branches = [F.relu(norm(conv(x))) for conv, norm, x in zip(self.convolutions, self.norms, inputs)]
        branches[-1] = F.interpolate(branches[-1], size=maps.shape[2:], mode="bilinear", align_corners=True)
        stacked = torch.cat(branches, dim=1)
        by_channel = stacked * F.relu(self.channel(stacked.mean(dim=(2, 3), keepdim=True)))
        by_position = stacked * torch.sigmoid(self.spatial(stacked))
        gated = torch.maximum(by_channel, by_position) * stacked
        return F.relu(self.mix_norm(self.mix(gated)))[:, :, 0, 0]


class PlainMambaRec(nn.Module):
    """The whole model for the modalities image and text.

    Args:
        features: modality -> float32 ``(n_items, width)``.
        graphs: ``image``, ``text`` (items x items), ``bipartite`` and ``user_item``, as in the package.
        settings: the keys of ``properties/model/MambaRec.yaml``, with ``train_batch_size``.
    """

    def __init__(
        self, n_users: int, features: dict[str, Tensor], graphs: dict[str, SparseGraph], settings: dict
    ) -> None:
        super().__init__()
        self.n_users, self.settings = n_users, settings
        d, n_items = settings["embedding_size"], len(features["image"])
        widths = {m: x.shape[1] for m, x in features.items()}
        self.user_embedding, self.item_embedding = nn.Embedding(n_users, d), nn.Embedding(n_items, d)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        freeze = settings["freeze_features"]
        self.table = nn.ModuleDict({m: nn.Embedding.from_pretrained(x.clone(), freeze) for m, x in features.items()})
        reduced = widths["image"] // settings["reduction_factor"]
        self.project = nn.ModuleDict(
            {
                "image": nn.Sequential(nn.Linear(widths["image"], reduced), nn.Linear(reduced, d)),
                "text": nn.Sequential(nn.Linear(widths["text"], d)),
            }
        )
        self.dream = nn.ModuleDict({m: PlainDream(d) for m in features})
        self.gate = nn.ModuleDict({m: nn.Linear(d, d) for m in features})
        self.preference = nn.ModuleDict({m: nn.Linear(d, d) for m in features})
        self.query = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, 1, bias=False))
        self.norm, self.dropout = nn.LayerNorm(d), nn.Dropout(settings["dropout_prob"])
        for name, graph in graphs.items():
            self.register_buffer(f"graph_{name}", graph.csr().to_sparse_coo(), persistent=False)

    def refine(self, modality: str) -> Tensor:
        """DREAM's output for all items."""
        return self.dream[modality](self.project[modality](self.table[modality].weight))

    def views(self) -> tuple[Tensor, Tensor]:
        """Fused side view and behaviour view of all nodes, users first."""
        modal = {}
        for m in self.table:
            content = self.dropout(self.norm(self.refine(m)))
            items = self.item_embedding.weight * torch.sigmoid(self.gate[m](content))
            for _ in range(self.settings["n_mm_layers"]):
                items = torch.sparse.mm(getattr(self, f"graph_{m}"), items)
            modal[m] = torch.cat([torch.sparse.mm(self.graph_user_item, items), items])
        layers = [torch.cat([self.user_embedding.weight, self.item_embedding.weight])]
        for _ in range(self.settings["n_ui_layers"]):
            layers.append(torch.sparse.mm(self.graph_bipartite, layers[-1]))
        behaviour = torch.stack(layers, dim=1).mean(dim=1)
        weights = torch.softmax(torch.cat([self.query(x) for x in modal.values()], dim=1), dim=1)
        common = weights[:, :1] * modal["image"] + weights[:, 1:] * modal["text"]
        separate = [torch.sigmoid(self.preference[m](behaviour)) * (x - common) for m, x in modal.items()]
        return (sum(separate) + common) / 3, behaviour

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Total loss of a batch of node numbers from 0."""
        side, behaviour = self.views()
        final = side + behaviour
        u, p, n = final[users], final[self.n_users + positives], final[self.n_users + negatives]
        bpr = -F.logsigmoid((u * p).sum(1) - (u * n).sum(1)).mean()
        reg = 0.5 * (u.square().sum() + p.square().sum() + n.square().sum()) / self.settings["train_batch_size"]
        at = self.n_users + positives
        contrastive = self._info_nce(side[at], behaviour[at]) + self._info_nce(side[users], behaviour[users])
        x, y = (F.normalize(self.refine(m)[positives], dim=1) for m in ("image", "text"))
        s = self.settings
        return bpr + s["reg_weight"] * reg + s["cl_weight"] * contrastive + s["mmd_weight"] * self._discrepancy(x, y)

    @staticmethod
    def _info_nce(a: Tensor, b: Tensor) -> Tensor:
        similarity = torch.exp(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2)
        return -torch.log(similarity.diagonal() / similarity.sum(dim=1)).mean()

    def _discrepancy(self, x: Tensor, y: Tensor) -> Tensor:
        def kernel(a: Tensor, b: Tensor) -> Tensor:
            squared = (a[:, None, :] - b[None, :, :]).square().sum(dim=2)
            return torch.exp(-squared / (2 * self.settings["mmd_bandwidth"] ** 2)).mean()

        return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)

    def copy_from(self, model: nn.Module) -> PlainMambaRec:
        """Copy the parameters and statistics of the package's model."""
        with torch.no_grad():
            self.user_embedding.load_state_dict(model.user_embedding.state_dict())
            self.item_embedding.load_state_dict(model.item_embedding.state_dict())
            self.norm.load_state_dict(model.norm.state_dict())
            self.query.load_state_dict(model.fusion.attention.state_dict())
            for m in self.table:
                self.table[m].weight.copy_(model.features[m].weight)
                steps = [model.projection[m].reduce, model.projection[m].expand]
                for ours, theirs in zip(self.project[m], [step for step in steps if step is not None]):
                    ours.load_state_dict(theirs.state_dict())
                self.gate[m].load_state_dict(model.item_gate[m].state_dict())
                self.preference[m].load_state_dict(model.fusion.preference[m].state_dict())
                self._copy_dream(self.dream[m], model.dream[m])
        return self

    @staticmethod
    def _copy_dream(plain: PlainDream, dream: nn.Module) -> None:
        for ours, theirs in zip(plain.convolutions, [dream.pointwise, *dream.dilated, dream.pooled]):
            ours.load_state_dict(theirs.state_dict())
        for i, norm in enumerate(plain.norms):
            rows = slice(i * dream.dim, (i + 1) * dream.dim)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).copy_(getattr(dream.branch_norm, name)[rows])
        plain.mix_norm.load_state_dict(dream.mix_norm.state_dict())
        for name in ("channel", "spatial", "mix"):
            theirs, ours = getattr(dream, name), getattr(plain, name)
            ours.weight.copy_(theirs.weight[:, :, None, None])
            if ours.bias is not None:
                ours.bias.copy_(theirs.bias)
