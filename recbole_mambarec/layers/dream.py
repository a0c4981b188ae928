"""DREAM: dilated refinement with channel and spatial attention (MambaRec, arXiv 2509.09114)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleList

DILATIONS = (6, 12, 18)
CHANNEL_ATTENTION = ("scalar", "squeeze")
SPATIAL_ATTENTION = ("channels", "mean")
# BatchNorm over so few vectors magnifies rounding errors, which are those of the published code if computed as there
_FEW_VECTORS = 100


class DREAM(nn.Module):
    """Five parallel convolutions, two attentions over their concatenation F, a gate, and a mixing convolution.

    Branches, each convolution -> BatchNorm -> ReLU: 1x1; three 3x3 with dilation 6, 12, 18 (times ``rate``); 1x1 on the
    global mean, spread back over the map. With attention weights M_c (channel) and M_s (spatial), the output is
    ``ReLU(BN(conv1x1(max(F * M_c, F * M_s) * F)))``.

    An item is one vector, a 1 x 1 map, on which only the centre tap of a padded 3x3 kernel has an effect and the global
    mean is the identity. For more than 100 vectors the five branches are therefore computed as one matrix product,
    which equals the convolutions; maps with more positions take the convolutions. All parameters exist in both paths,
    so a state dict fits either; on vectors the outer taps get zero gradient.

    Args:
        dim: channels in and out, d.
        rate: factor on the dilations.
        channel_attention: ``scalar``: one non-negative number per sample, ReLU of a bias-free map 5d -> 1 (released
            code); ``squeeze``: one weight per channel, 5d -> 5d/2 -> ReLU -> 5d -> sigmoid (paper).
        spatial_attention: ``channels``: sigmoid of a bias-free 1x1 convolution 5d -> 1 (released code); ``mean``: the
            same on the mean over channels, 1 -> 1 (paper, second-hand).
    """

    def __init__(
        self, dim: int, rate: int = 1, channel_attention: str = "scalar", spatial_attention: str = "channels"
    ) -> None:
        super().__init__()
        if channel_attention not in CHANNEL_ATTENTION or spatial_attention not in SPATIAL_ATTENTION:
            raise ValueError(f"unknown attention: {channel_attention}, {spatial_attention}")
        self.dim = dim
        width = 5 * dim
        self.pointwise = nn.Conv2d(dim, dim, 1)
        self.dilated = ModuleList(
            nn.Conv2d(dim, dim, 3, padding=rate * dilation, dilation=rate * dilation) for dilation in DILATIONS
        )
        self.pooled = nn.Conv2d(dim, dim, 1)
        # the five BatchNorms side by side: normalisation is per channel, so one of width 5d is the same
        self.branch_norm = nn.BatchNorm2d(width)
        self.channel: nn.Module
        if channel_attention == "scalar":
            self.channel = nn.Linear(width, 1, bias=False)
        else:
            self.channel = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
        self.channel_gate = F.relu if channel_attention == "scalar" else torch.sigmoid
        self.spatial = nn.Linear(width if spatial_attention == "channels" else 1, 1, bias=False)
        self.mix = nn.Linear(width, dim)
        self.mix_norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Refine vectors or maps; the result is non-negative.

        Args:
            x: ``(n, d)`` -> ``(n, d)``; a sequence ``(n, s, d)`` is seen as a map ``(n, d, 1, s)``; ``(n, d, h, w)``
                -> ``(n, d, h, w)``.
        """
        if x.ndim == 2 and len(x) <= _FEW_VECTORS:
            return self._mix(self._map_branches(x[:, :, None, None])).flatten(1)
        if x.ndim == 2:
            return self._mix(self._vector_branches(x))
        if x.ndim == 3:
            x = x.transpose(1, 2).unsqueeze(2)
        return self._mix(self._map_branches(x))

    def _vector_branches(self, x: Tensor) -> Tensor:
        """All five branches of ``(n, d)`` as one product: ``(n, 5d)``."""
        kernels = [self.pointwise.weight[:, :, 0, 0]]
        kernels += [conv.weight[:, :, 1, 1] for conv in self.dilated]
        kernels.append(self.pooled.weight[:, :, 0, 0])
        biases = [self.pointwise.bias, *(conv.bias for conv in self.dilated), self.pooled.bias]
        return F.relu(self._norm(self.branch_norm, F.linear(x, torch.cat(kernels), torch.cat(biases))))

    def _map_branches(self, x: Tensor) -> Tensor:
        """The branches of ``(n, d, h, w)``, channels last: ``(n, h, w, 5d)``."""
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True))
        branches = [self.pointwise(x), *(conv(x) for conv in self.dilated), pooled]
        # branch by branch, because the pooled one has statistics over samples alone
        normed = [
            F.relu(self._norm(self.branch_norm, branch, slice(i * self.dim, (i + 1) * self.dim)))
            for i, branch in enumerate(branches)
        ]
        normed[-1] = normed[-1].expand_as(x)  # what resizing a 1 x 1 map amounts to
        return torch.cat(normed, dim=1).movedim(1, -1)

    def _mix(self, features: Tensor) -> Tensor:
        """Attention, gate and mixing of channels-last ``(n, 5d)`` or ``(n, h, w, 5d)``."""
        positions = tuple(range(1, features.ndim - 1))
        summary = features.mean(dim=positions, keepdim=True) if positions else features
        channel = self.channel_gate(self.channel(summary))
        described = features if self.spatial.in_features > 1 else features.mean(dim=-1, keepdim=True)
        spatial = torch.sigmoid(self.spatial(described))
        if channel.shape[-1] == 1:
            # F >= 0 after the ReLU, so the larger product is the product with the larger weight
            attended = features * torch.maximum(channel, spatial)
        else:
            attended = torch.maximum(features * channel, features * spatial)
        mixed = self.mix(attended * features).movedim(-1, 1)
        return F.relu(self._norm(self.mix_norm, mixed))

    @staticmethod
    def _norm(norm: nn.BatchNorm2d, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """BatchNorm of ``x`` (channels in dimension 1) with the parameters of ``norm`` for ``channels`` of it."""
        if norm.training and channels.start in (None, 0):
            norm.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            norm.running_mean[channels],
            norm.running_var[channels],
            norm.weight[channels],
            norm.bias[channels],
            training=norm.training,
            momentum=norm.momentum,
            eps=norm.eps,
        )
