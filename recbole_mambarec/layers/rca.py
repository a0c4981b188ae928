"""Recursive Cross-modal Attention (CRANE, arXiv 2601.11151): modalities refined by what they share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError, one_of

RESIDUALS = ("previous", "input")
SCOPES = ("feature", "token")
_HEADS = 4
# smaller inside the tanh: features of few effective dimensions would saturate it from the start; smaller still for what
# a step adds: refining begins near what the features say, not with noise of their own length
_GAINS = {"correlated": 0.5, "own": 1.0, "crossed": 1.0, "output": 0.1}


class RCA(nn.Module):
    """R steps that refine M modality representations of N nodes, then a joint map of the result.

    ``feature``, in each step, with ``E = [X_1 | ... | X_M]`` and the joint projection ``J = E W_J + b_J``::

        C_m = tanh(sqrt(d) corr(X_m, J) W_jm)                    d x d
        X_m = X_m + ReLU(X_m W_m + J C_m^T W_cm / sqrt(d)) W_hm

    The correlations are statistics of all N rows, so the rows must be real nodes of one type: padding rows would count.
    ``token``: each node's M vectors attend to each other (4 heads) and are added. Both take time O(R N (M d)^2) and
    memory O(N M d + (M d)^2) per step: no N x N array exists.

    That features are refined in steps from cross-correlations with a joint projection is the paper's (abstract and
    figure); the step is that of joint cross-attention in audio-visual learning, and its scale, the centred and
    normalised correlation (raw products saturate the tanh at catalogue size), the sharing of weights, the token form
    and the start (a step adds a tenth of the length of what comes in, biases are 0) are ours.

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
        self.correlates = one_of("rca_scope", scope, SCOPES) == "feature"
        step = FeatureStep if self.correlates else TokenStep
        self.n_steps = n_steps
        self.steps = nn.ModuleList(step(dim, n_views) for _ in range(min(n_steps, 1) if share_steps else n_steps))
        self.joint = unbiased(n_views * dim, dim)

    def forward(self, nodes: Tensor, asked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Refine nodes whose modalities lie side by side, ``(N, M d)``.

        Args:
            nodes: all nodes of one type, whose correlations count.
            asked: other rows, ``(K, M d)``, that are refined by the same maps and count for nothing; only their result
                is wanted then, so that the last step is applied to them alone.

        Returns:
            ``asked`` (or ``nodes``) refined, side by side, and the joint map ``(K or N, d)`` of that.
        """
        rows = nodes if asked is None else asked
        start = states = [rows] if rows is nodes or not self.correlates else [nodes, rows]
        for number in range(self.n_steps):
            step = self.steps[number % len(self.steps)]
            maps = step.maps(states[0])
            if number == self.n_steps - 1:
                states, start = states[-1:], start[-1:]
            onto = states if self.residual == "previous" else start
            states = [x + step.added(y, maps) for x, y in zip(onto, states)]
        return states[-1], self.joint(states[-1])


def unbiased(inputs: int, outputs: int) -> nn.Linear:
    """A linear map whose bias starts at 0.

    torch draws biases as large as inputs with entries of about 1 call for; those of features with rows of length 1 are
    far smaller, so that all nodes would start alike.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    return layer


class FeatureStep(nn.Module):
    """What one step of the ``feature`` scope adds to each modality."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        self.joint = unbiased(n_views * dim, dim)
        for name, gain in _GAINS.items():
            weights = nn.Parameter(torch.empty(n_views, dim, dim))
            for weight in weights:
                nn.init.xavier_uniform_(weight, gain=gain)
            setattr(self, name, weights)

    def attention(self, nodes: Tensor) -> Tensor:
        """C of every modality, ``(M, d, d)``: rows are its coordinates, columns mix those of J."""
        found = correlation(nodes, self.joint.weight)
        dim = self.joint.out_features
        return torch.tanh(math.sqrt(dim) * found.view(-1, dim, dim) @ self.correlated)

    def maps(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Weight ``(M d, M d)`` and bias of the map inside the ReLU, whose correlations are those of ``nodes``.

        ``X_m W_m + J C_m^T W_cm / sqrt(d)`` is linear in ``E = [X_1 | ... | X_M]``, and one product with E is cheaper
        than one with each modality and J.
        """
        attention = self.attention(nodes)
        crossed = attention.transpose(1, 2) @ self.crossed / math.sqrt(self.joint.out_features)
        side_by_side = torch.cat(list(crossed), dim=1)
        return torch.block_diag(*self.own) + self.joint.weight.T @ side_by_side, self.joint.bias @ side_by_side

    def added(self, x: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
        """``(N, M d)`` for rows ``(N, M d)``."""
        weight, bias = maps
        hidden = F.relu(torch.addmm(bias, x, weight))
        return torch.cat([h @ output for h, output in zip(hidden.chunk(len(self.output), dim=1), self.output)], dim=1)


class TokenStep(nn.Module):
    """What one step of the ``token`` scope adds to each modality."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        if dim % _HEADS:
            raise UserError(f"rca_scope 'token' has {_HEADS} heads and needs an embedding_size they divide, not {dim}")
        self.attention = nn.MultiheadAttention(dim, _HEADS, batch_first=True)

    def maps(self, nodes: Tensor) -> None:
        """Nodes do not see each other."""

    def added(self, x: Tensor, maps: None) -> Tensor:
        """``(N, M d)`` for rows ``(N, M d)``."""
        tokens = x.view(len(x), -1, self.attention.embed_dim)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


def correlation(x: Tensor, weight: Tensor) -> Tensor:
    """Pearson correlations of the columns of x ``(N, p)`` and of ``x W^T + b``, in float32: ``(p, q)``.

    From the second moments of x alone: the mapped rows are never made, and b does not matter. A column that does not
    vary, or a mapped one that varies a thousandth of what goes into it, correlates with nothing.

    Args:
        weight: ``(q, p)``, as of a linear layer.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, weight = x.float(), weight.float()
        mean = x.detach().mean(dim=0)
        moments = _Moments.apply(x, mean)
        crossed = moments @ weight.T
        squares = moments.diagonal()
        of_x = _per_norm(squares, 1e-10 * len(x) * mean.square())
        of_mapped = _per_norm((weight.T * crossed).sum(dim=0), 1e-6 * weight.square() @ squares)
        return of_x[:, None] * crossed * of_mapped


class _Moments(torch.autograd.Function):
    """``(x - mean)^T (x - mean)`` with one product in its gradient, whose columns sum to zero."""

    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean)
        centred = x - mean
        return centred.T @ centred

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        both = gradient + gradient.T
        found = torch.addmm(-(mean @ both), x, both)
        # a mean in float32 is not exact, and the step before would multiply what is left of it by the mean
        return found.sub_(found.mean(dim=0)), None


def _per_norm(squares: Tensor, rounding: Tensor) -> Tensor:
    """One over the roots of ``squares``; 0, without gradient, where no more is left than rounding."""
    nothing = squares <= rounding
    return squares.masked_fill(nothing, 1).rsqrt().masked_fill(nothing, 0)
