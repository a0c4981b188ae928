"""MMSSL's graphs: those of the interactions, and those of the items that look preferred in a modality."""

from __future__ import annotations

from collections.abc import Sequence

import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_mambarec.data.graphs.sparse import SparseGraph, inverse_sqrt


def scaled_rows(matrix: sp.csr_array) -> SparseGraph:
    """``D^-1/2 A`` with the degrees of rows alone."""
    return SparseGraph(sp.diags_array(inverse_sqrt(matrix.sum(axis=1))) @ matrix)


def received(sent: Tensor, receivers: Tensor, count: int) -> Tensor:
    """:func:`scaled_rows` over E edges: what each of ``count`` nodes receives, ``(E, d)`` -> ``(count, d)``."""
    degrees = sent.new_zeros(count).index_add(0, receivers, torch.ones_like(receivers, dtype=sent.dtype))
    total = sent.new_zeros(count, sent.shape[1]).index_add(0, receivers, sent)
    return total * (degrees + 1e-8).rsqrt()[:, None]


class PickedItems:
    """Collects the items that look preferred in each modality, and makes edges of them after some steps.

    As released, of ``steps`` steps, every ``steps``-th one makes edges of what the others have collected, and collects
    nothing itself, but for the first of an epoch, which collects. So with ``steps = 1`` the second step makes edges of
    the first's items, and all later ones of none. What an epoch's last steps have collected is lost.

    Args:
        modalities: their names.
        count: items per user.
        steps: see above.
        repaired: every step collects, and items become edges of their own users; as released, pick n of a batch is
            booked for the user in row n modulo B.
    """

    def __init__(self, modalities: Sequence[str], count: int, steps: int, repaired: bool) -> None:
        self.count, self.steps, self.repaired = count, steps, repaired
        #: modality -> (users, items), ``(2, n)``; None: none have been made yet
        self.edges: dict[str, Tensor] | None = None
        self._modalities = tuple(modalities)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Collect anew."""
        self._step = 0
        self.collected: dict[str, list[Tensor]] = {m: [] for m in self._modalities}

    def add(self, users: Tensor, similarities: dict[str, Tensor]) -> None:
        """Take a step with a batch of users ``(B,)`` and their similarities to all items by modality, ``(B, I)``."""
        if self.repaired:
            collects, makes = True, (self._step + 1) % self.steps == 0
        else:
            makes = self._step > 0 and self._step % self.steps == 0
            collects = not makes
        if collects:
            booked = users.repeat_interleave(self.count) if self.repaired else users.repeat(self.count)
            for modality, rows in similarities.items():
                items = rows.topk(self.count, dim=1).indices.flatten()
                self.collected[modality].append(torch.stack([booked, items]))
        if makes:
            none = users.new_zeros(2, 0)
            self.edges = {m: torch.cat([none, *parts], dim=1) for m, parts in self.collected.items()}
            self.collected = {m: [] for m in self._modalities}
        self._step += 1
