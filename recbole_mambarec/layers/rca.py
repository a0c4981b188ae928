"""Recursive Cross-modal Attention (CRANE, arXiv 2601.11151): modalities refined by what they share."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleList
from recbole_mambarec.value_checks import check_choice

RESIDUALS = ("previous", "input")
SCOPES = ("feature", "token")
_HEADS = 4
# gains of initial weights: smaller inside the tanh, which features of few effective dimensions would saturate from the
# start, and smaller still for what a step adds, so that refinement starts near the features and not with noise
_CORRELATED_GAIN, _OUTPUT_GAIN = 0.5, 0.1


class RCA(nn.Module):
    """R steps that refine M modality representations of N nodes, then a joint map of the result.

    ``feature``, in each step, with ``E = [X_1 | ... | X_M]`` and the joint projection ``J = E W_J + b_J``::

        C_m = tanh(sqrt(d) corr(X_m, J) W_jm)                    d x d
        X_m = X_m + ReLU(X_m W_m + J C_m^T W_cm / sqrt(d)) W_hm

    The correlations are statistics of all N rows, so the rows must be real nodes of one type: padding rows would count.
    ``token``: each node's M vectors attend to each other (4 heads), and the result is added to them. Both take time
    O(R N (M d)^2) and memory O(N M d + (M d)^2) per step: no N x N array exists.

    From the paper's abstract and figure: features are refined in steps, from cross-correlations with a joint
    projection. The step itself is that of joint cross-attention in audio-visual learning. Its scale, the centred and
    normalised correlation (raw products saturate the tanh at catalogue size), the sharing of weights, the token form
    and the initial values (a step adds a tenth of the length of its input, biases are 0) are this package's.

    Args:
        dim: width d.
        n_views: modalities M, at least 1; a single one is correlated with its own joint projection.
        n_steps: R; 0 leaves the modalities as they are.
        share_steps: the steps use the same weights.
        residual: a step adds to the result of the previous one (``previous``) or to the input of the first (``input``).
        scope: ``feature`` or ``token``.

    Raises:
        UserError: unknown ``residual`` or ``scope``, or ``token`` with a ``dim`` that its heads do not divide.
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
        self.residual = check_choice("rca_residual", residual, RESIDUALS)
        self.correlates = check_choice("rca_scope", scope, SCOPES) == "feature"
        step: type[Step] = FeatureStep if self.correlates else TokenStep
        self.n_steps = n_steps
        self.steps = ModuleList(step(dim, n_views) for _ in range(min(n_steps, 1) if share_steps else n_steps))
        self.joint = unbiased(n_views * dim, dim)

    def forward(self, nodes: Tensor, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Refine nodes whose modalities lie side by side.

        Args:
            nodes: all nodes of one type, ``(N, M d)``; the correlations are theirs.
            queries: other rows, ``(K, M d)``, to which the same maps are applied without contributing to the
                correlations. Only they are returned then, and the last step is applied to them alone.

        Returns:
            The refined ``queries`` (or ``nodes``), side by side, and their joint map ``(K or N, d)``.
        """
        rows = nodes if queries is None else queries
        start = states = [rows] if rows is nodes or not self.correlates else [nodes, rows]
        for number in range(self.n_steps):
            step = self.steps[number % len(self.steps)]
            maps = step.maps(states[0])
            if number == self.n_steps - 1:
                states, start = states[-1:], start[-1:]
            bases = states if self.residual == "previous" else start
            states = [base + step.update(x, maps) for base, x in zip(bases, states)]
        return states[-1], self.joint(states[-1])


def unbiased(inputs: int, outputs: int) -> nn.Linear:
    """A linear map whose bias starts at 0.

    torch draws biases that suit inputs with entries of about 1. Rows of length 1 have far smaller entries, and such a
    bias would make all nodes alike.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    return layer


class Step(nn.Module):
    """One step: maps that it derives from all nodes, and what they add to rows."""

    def maps(self, nodes: Tensor) -> Any:
        """What :meth:`update` needs to know of all ``nodes``, ``(N, M d)``."""
        raise NotImplementedError

    def update(self, x: Tensor, maps: Any) -> Tensor:
        """What the step adds to rows ``x``, ``(N, M d)`` -> ``(N, M d)``."""
        raise NotImplementedError


class FeatureStep(Step):
    """One step of the ``feature`` scope."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        self.joint = unbiased(n_views * dim, dim)
        self.correlated = _weights(n_views, dim, _CORRELATED_GAIN)  # W_jm
        self.own = _weights(n_views, dim)  # W_m
        self.crossed = _weights(n_views, dim)  # W_cm
        self.output = _weights(n_views, dim, _OUTPUT_GAIN)  # W_hm

    def attention(self, nodes: Tensor) -> Tensor:
        """C of every modality, ``(M, d, d)``: rows are its coordinates, columns mix those of J."""
        dim = self.joint.out_features
        correlations = correlation(nodes, self.joint.weight).view(-1, dim, dim)
        return torch.tanh(math.sqrt(dim) * correlations @ self.correlated)

    def maps(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Weight ``(M d, M d)`` and bias of the map inside the ReLU, whose correlations are those of ``nodes``.

        ``X_m W_m + J C_m^T W_cm / sqrt(d)`` is linear in ``E = [X_1 | ... | X_M]``, and one product with E is cheaper
        than one with each modality and one with J.
        """
        attention = self.attention(nodes)
        crossed = attention.transpose(1, 2) @ self.crossed / math.sqrt(self.joint.out_features)
        side_by_side = torch.cat(list(crossed), dim=1)
        return torch.block_diag(*self.own) + self.joint.weight.T @ side_by_side, self.joint.bias @ side_by_side

    def update(self, x: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
        """What the step adds to rows ``x``, ``(N, M d)`` -> ``(N, M d)``."""
        weight, bias = maps
        hidden = F.relu(torch.addmm(bias, x, weight))
        return torch.cat([h @ output for h, output in zip(hidden.chunk(len(self.output), dim=1), self.output)], dim=1)


def _weights(n_views: int, dim: int, gain: float = 1.0) -> nn.Parameter:
    """A ``(d, d)`` matrix per modality, Xavier-uniform, ``(M, d, d)``."""
    weights = nn.Parameter(torch.empty(n_views, dim, dim))
    for weight in weights:
        nn.init.xavier_uniform_(weight, gain=gain)
    return weights


class TokenStep(Step):
    """One step of the ``token`` scope."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        if dim % _HEADS:
            raise UserError(f"rca_scope 'token' has {_HEADS} heads and needs an embedding_size they divide, not {dim}")
        self.attention = nn.MultiheadAttention(dim, _HEADS, batch_first=True)

    def maps(self, nodes: Tensor) -> None:
        """None: nodes do not see each other."""

    def update(self, x: Tensor, maps: None) -> Tensor:
        """What the step adds to rows ``x``, ``(N, M d)`` -> ``(N, M d)``."""
        tokens = x.view(len(x), -1, self.attention.embed_dim)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


def correlation(x: Tensor, weight: Tensor) -> Tensor:
    """Pearson correlations of the columns of x ``(N, p)`` and of ``x W^T + b``, in float32: ``(p, q)``.

    They follow from the second moments of x alone, so the mapped rows are never computed and b does not matter. A
    column that does not vary, or a mapped one that varies a thousandth as much as its inputs, correlates with nothing.

    Args:
        weight: ``(q, p)``, as in a linear layer.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, weight = x.float(), weight.float()
        mean = x.detach().mean(dim=0)
        moments = _Moments.apply(x, mean)
        crossed = moments @ weight.T
        squares = moments.diagonal()
        scale_x = _inverse_root(squares, 1e-10 * len(x) * mean.square())
        scale_mapped = _inverse_root((weight.T * crossed).sum(dim=0), 1e-6 * weight.square() @ squares)
        return scale_x[:, None] * crossed * scale_mapped


class _Moments(torch.autograd.Function):
    """``(x - mean)^T (x - mean)``; its gradient takes one product and has columns that sum to zero."""

    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean)
        centred = x - mean
        return centred.T @ centred

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        both = gradient + gradient.T
        result = torch.addmm(-(mean @ both), x, both)
        # a float32 mean is not exact, and earlier layers would amplify what remains of it
        return result.sub_(result.mean(dim=0)), None


def _inverse_root(squares: Tensor, rounding: Tensor) -> Tensor:
    """``1 / sqrt(squares)``; 0, without gradient, where ``squares`` is within rounding of zero."""
    negligible = squares <= rounding
    return squares.masked_fill(negligible, 1).rsqrt().masked_fill(negligible, 0)
