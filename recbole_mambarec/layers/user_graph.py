"""The users who share most training items with each user, as a graph that is partly drawn anew in every epoch."""

from __future__ import annotations

from torch import Tensor, nn

from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences


class UserGraph(nn.Module):
    """Users receive from the users who share most items with them, weighted with the softmax of the shared counts.

    In training, a user with too few neighbours has some of them repeated at random. Evaluation uses each of them once,
    so that a score does not depend on chance; the published code keeps the last draw there.
    Source: DualGNN (TMM 2023), from which DRAGON and COHESION take it.

    Args:
        co_users: neighbours of each user, and how many are wanted.
    """

    def __init__(self, co_users: CoOccurrences) -> None:
        super().__init__()
        self.co_users = co_users
        self.each_once = self.drawn = co_users.graph()

    def redraw(self) -> None:
        """Draw the repeated neighbours, from torch's global generator."""
        self.drawn = self.co_users.filled_graph().to(self.each_once.forward_values.device)

    def forward(self, users: Tensor) -> Tensor:
        """``(U, d)`` -> ``(U, d)``; zeros for a user without neighbours."""
        return (self.drawn if self.training else self.each_once).propagate(users)
