"""How well a linear map of what a model has learnt gives a whole feature table back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mambarec.data.rows import BLOCK_VALUES, blocks
from recbole_mambarec.layers.features import FeatureBlocks


def reconstruction_error(decoder: nn.Linear, x: Tensor, table: Tensor | FeatureBlocks) -> Tensor:
    """Mean square of ``decoder(x) - table`` over all entries, with gradient to the decoder and to a trained table.

    What the decoder makes, ``(n, D)``, exists in row blocks only: the gradient is computed along with the value.

    Args:
        decoder: from width w to D.
        x: ``(n, w)``; no gradient reaches it.
        table: ``(n, D)``.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, weight, bias = x.detach().float(), decoder.weight.float(), decoder.bias.float()
        if isinstance(table, FeatureBlocks):
            return _MeanSquare.apply(weight, bias, None, x, table)
        return _MeanSquare.apply(weight, bias, table, x, None)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, weight: Tensor, bias: Tensor, table: Tensor | None, x: Tensor, frozen: FeatureBlocks | None
    ) -> Tensor:
        gradients = torch.zeros_like(weight), torch.zeros_like(bias)
        of_table = torch.empty_like(table) if ctx.needs_input_grad[2] else None
        scale = 2.0 / (len(x) * len(weight))
        total = weight.new_zeros(())
        for place, rows in blocks(table, BLOCK_VALUES) if frozen is None else frozen.blocks():
            gaps = torch.addmm(bias, x[place], weight.T).sub_(rows)
            total += gaps.square().sum()
            gradients[0].addmm_(gaps.T, x[place], alpha=scale)
            gradients[1].add_(gaps.sum(dim=0), alpha=scale)
            if of_table is not None:
                torch.mul(gaps, -scale, out=of_table[place])
        ctx.save_for_backward(*gradients, of_table)
        return total * (scale / 2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, table = ctx.saved_tensors
        # in place: another array of the table's size would be the largest of a step
        return gradient * weight, gradient * bias, None if table is None else table.mul_(gradient), None, None
