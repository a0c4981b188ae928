"""Recursive Cross-modal Attention (CRANE, arXiv 2601.11151): modalities refined by what they share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError, one_of

RESIDUALS = ("previous", "input")
SCOPES = ("feature", "token")
_HEADS = 4


class RCA(nn.Module):
    """R steps that refine M modality representations of N nodes, then a joint map of the result.

    ``feature``, in each step, with ``E = [X_1 | ... | X_M]`` and the joint projection ``J = E W_J + b_J``::

        C_m = tanh(sqrt(d) corr(X_m, J) W_jm)                    d x d
        X_m = X_m + ReLU(X_m W_m + J C_m^T W_cm / sqrt(d)) W_hm

    The correlations are statistics of all N rows, so the rows must be real nodes of one type: padding rows would count.
    ``token``: each node's M vectors attend to each other (4 heads) and are added. Both take time O(R N d^2) and memory
    O(N d + d^2): no N x N array exists.

    That features are refined in steps from cross-correlations with a joint projection is the paper's (abstract and
    figure); the step is that of joint cross-attention in audio-visual learning, and its scale, the centred and
    normalised correlation (raw products saturate the tanh at catalogue size), the sharing of weights and the token form
    are ours.

    Args:
        dim: width d.
        n_views: modalities M, at least 1; a single one is correlated with its own joint projection.
        n_steps: R; 0 leaves the modalities as they are.
        share_steps: the steps use the same weights.
        residual: a step adds to the result of the one before (``previous``) or to what came in (``input``).
        scope: ``feature`` or ``token``.

    Raises:
        UserError: unknown ``residual`` or ``scope``, or heads that do not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        n_views: int,
        n_steps: int = 2,
        share_steps: bool = True,
        residual: str = "previous",
        scope: str = "feature",
    ) -> None:
        super().__init__()
        self.residual = one_of("rca_residual", residual, RESIDUALS)
        step = FeatureStep if one_of("rca_scope", scope, SCOPES) == "feature" else TokenStep
        self.n_steps = n_steps
        self.steps = nn.ModuleList(step(dim, n_views) for _ in range(min(n_steps, 1) if share_steps else n_steps))
        self.joint = nn.Linear(n_views * dim, dim)

    def forward(self, views: Sequence[Tensor], counted: int | None = None) -> tuple[Tensor, Tensor]:
        """Refine ``views``, M tensors ``(N, d)``.

        Args:
            counted: the first so many rows (all) are the nodes whose correlations count; the others are refined along.

        Returns:
            Refined views side by side ``(N, M d)``, and their joint map ``(N, d)``.
        """
        start = views
        for number in range(self.n_steps):
            added = self.steps[number % len(self.steps)](views, counted)
            onto = views if self.residual == "previous" else start
            views = [x + update for x, update in zip(onto, added)]
        refined = torch.cat(list(views), dim=1)
        return refined, self.joint(refined)


class FeatureStep(nn.Module):
    """What one step of the ``feature`` scope adds to each view."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        self.joint = nn.Linear(n_views * dim, dim)
        for name in ("correlated", "own", "crossed", "output"):
            weights = nn.Parameter(torch.empty(n_views, dim, dim))
            for weight in weights:
                # smaller inside the tanh: features of few effective dimensions would saturate it from the start
                nn.init.xavier_uniform_(weight, gain=0.5 if name == "correlated" else 1.0)
            setattr(self, name, weights)

    def attention(self, views: Sequence[Tensor], joint: Tensor) -> Tensor:
        """C of every view, ``(M, d, d)``: rows are its coordinates, columns mix those of ``joint`` ``(N, d)``."""
        found = torch.stack([correlation(x, joint) for x in views])
        return torch.tanh(math.sqrt(joint.shape[1]) * found @ self.correlated)

    def forward(self, views: Sequence[Tensor], counted: int | None = None) -> list[Tensor]:
        """``(N, d)`` for each of ``views``; correlations are those of the first ``counted`` rows."""
        joint = self.joint(torch.cat(list(views), dim=1))
        attention = self.attention([x[:counted] for x in views], joint[:counted])
        crossed = attention.transpose(1, 2) @ self.crossed / math.sqrt(joint.shape[1])
        return [
            F.relu(x @ own + joint @ cross) @ output
            for x, own, cross, output in zip(views, self.own, crossed, self.output)
        ]


class TokenStep(nn.Module):
    """What one step of the ``token`` scope adds to each view."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        if dim % _HEADS:
            raise UserError(f"rca_scope 'token' has {_HEADS} heads and needs an embedding_size they divide, not {dim}")
        self.attention = nn.MultiheadAttention(dim, _HEADS, batch_first=True)

    def forward(self, views: Sequence[Tensor], counted: int | None = None) -> Sequence[Tensor]:
        """``(N, d)`` for each of ``views``; nodes do not see each other, so that ``counted`` says nothing."""
        tokens = torch.stack(list(views), dim=1)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].unbind(dim=1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlations of the columns of ``(N, p)`` and ``(N, q)``, in float32: ``(p, q)``, each in [-1, 1].

    A column that does not vary correlates with nothing.
    """
    with torch.autocast(a.device.type, enabled=False):
        (a, of_a), (b, of_b) = _centred(a.float()), _centred(b.float())
        return (a.T @ b) / (of_a[:, None] * of_b)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Columns less their means, and their norms; infinite where only rounding is left of a column."""
    mean = x.mean(dim=0)
    centred = x - mean
    norm = centred.norm(dim=0)
    return centred, norm.masked_fill(norm <= 1e-5 * math.sqrt(len(x)) * mean.abs(), torch.inf)
