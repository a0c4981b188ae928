"""How DGMRec generates the features that items lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import mean_over_distinct
from recbole_mambarec.layers.noise import signed_node_noise


def _two_layers(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))


class ModalityGenerator(nn.Module):
    """Maps that give both parts of a modality that an item lacks.

    Its general part comes from the general parts of the item's other modalities (their mean; of an item that has none,
    all count), its specific part from the filter that the item's users give.

    Args:
        present: modality -> which items have it, bool ``(n_items,)``.
        dim: width of the parts.
    """

    present: Tensor

    def __init__(self, present: Mapping[str, np.ndarray], dim: int) -> None:
        super().__init__()
        self.modalities: Sequence[str] = list(present)
        self.from_filter = ModuleDict({m: _two_layers(dim) for m in present})
        self.from_modality = ModuleDict(
            {m: ModuleDict({o: _two_layers(dim) for o in present if o != m}) for m in present}
        )
        self.register_buffer("present", torch.from_numpy(np.stack(list(present.values()))), persistent=False)

    def loss(
        self,
        specific: Mapping[str, Tensor],
        filters: Mapping[str, Tensor],
        general: Mapping[str, Tensor],
        batch: Tensor,
    ) -> dict[str, Tensor]:
        """Mean squares by which the maps miss what the distinct items of a batch have, by the name of what they make.

        Args:
            specific: modality -> specific part before the filter, ``(n_items, d)``.
            filters: modality -> filter of each item, ``(n_items, d)``.
            general: modality -> general part after filter and propagation, ``(n_items, d)``.
            batch: items, ``(B,)``; one that lacks what is made or what it is made of does not count.
        """
        noisy = [{m: signed_node_noise(x)[batch] for m, x in table.items()} for table in (filters, general)]
        has = dict(zip(self.modalities, self.present))
        gaps = {}
        for m in self.modalities:
            gap = (specific[m][batch] - self.from_filter[m](noisy[0][m])).float().square().mean(dim=1)
            gaps[m] = mean_over_distinct(gap, batch, has[m][batch])
        for source, target in permutations(self.modalities, 2):
            made = self.from_modality[target][source](noisy[1][source])
            gap = (general[target][batch] - made).float().square().mean(dim=1)
            gaps[f"{source} to {target}"] = mean_over_distinct(gap, batch, (has[source] & has[target])[batch])
        return gaps

    def make(self, modality: str, general: Mapping[str, Tensor], item_filter: Tensor) -> Tensor:
        """General and specific part of a modality side by side for all items, ``(n_items, 2 d)``.

        Args:
            modality: what is made.
            general: modality -> general part before filter and propagation, ``(n_items, d)``.
            item_filter: filter of the modality, ``(n_items, d)``.
        """
        others = [m for m in self.modalities if m != modality]
        has = torch.stack([self.present[self.modalities.index(m)] for m in others], dim=1).float()
        has = torch.where(has.any(dim=1, keepdim=True), has, 1.0)
        shares = has / has.sum(dim=1, keepdim=True)
        made = [self.from_modality[modality][m](general[m]) for m in others]
        mixed = sum(share[:, None] * x for share, x in zip(shares.T, made))
        return torch.cat([mixed, self.from_filter[modality](item_filter)], dim=1)
