"""RecBole's collector of ranked lists, with fewer passes over the scores."""

from __future__ import annotations

import torch
from recbole.evaluator import Collector
from torch import Tensor

# what metrics may need besides the hits among the first k
_OTHER_NEEDS = ("rec.items", "rec.meanrank", "rec.score", "data.label")


class HitCollector(Collector):
    """Collects ``rec.topk``, which of the first k items are hits and how many positive items a user has.

    RecBole marks the positive items in an array of the size of the scores, sums it, and copies everything collected so
    far with every block of users. For metrics that need more than ``rec.topk``, RecBole's own code is used.
    """

    def __init__(self, config) -> None:
        super().__init__(config)
        self._blocks: list[Tensor] = []

    def eval_batch_collect(self, scores_tensor: Tensor, interaction, positive_u: Tensor, positive_i: Tensor) -> None:
        """Add a block of users.

        Args:
            scores_tensor: ``(users, items)``.
            interaction: the users, for RecBole's own code.
            positive_u, positive_i: row and item of each positive item, ``(positives,)``.
        """
        need = self.register.need
        if not need("rec.topk") or any(map(need, _OTHER_NEEDS)):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        positive_u, positive_i = positive_u.to(scores_tensor.device), positive_i.to(scores_tensor.device)
        n_users, n_items = scores_tensor.shape
        ranked = scores_tensor.topk(max(self.topk), dim=1).indices
        rows = torch.arange(n_users, device=ranked.device)[:, None]
        # a code per pair, and a last one beyond all of them
        wanted = (positive_u * n_items + positive_i).sort().values
        wanted = torch.cat([wanted, wanted.new_full((1,), n_users * n_items)])
        codes = rows * n_items + ranked
        hits = wanted[torch.searchsorted(wanted, codes)] == codes
        # a repeated pair counts once
        sizes = torch.zeros(n_users, dtype=torch.int64, device=ranked.device)
        sizes.scatter_add_(0, wanted[:-1] // n_items, (wanted[1:] != wanted[:-1]).long())
        self._blocks.append(torch.cat([hits.long(), sizes[:, None]], dim=1))

    def get_data_struct(self):
        """What was collected since the last call."""
        if self._blocks:
            self.data_struct.set("rec.topk", torch.cat(self._blocks))
            self._blocks = []
        return super().get_data_struct()
