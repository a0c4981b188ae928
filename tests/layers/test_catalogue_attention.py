"""Attention over the catalogue: with its weights held and in a fused kernel."""

import pytest
import torch

from recbole_mambarec.layers import catalogue_attention
from recbole_mambarec.layers.catalogue_attention import CatalogueAttention


def attend_and_descend(attention, x):
    made = attention(x)
    return made, *torch.autograd.grad(made.square().sum(), (x, *attention.parameters()))


@pytest.mark.parametrize(("width", "heads"), [(8, 1), (12, 4), (16, 2)])
def test_the_fused_kernel_computes_what_torchs_attention_does(width, heads, monkeypatch):
    torch.manual_seed(0)
    attention, theirs = CatalogueAttention(width, heads), torch.nn.MultiheadAttention(width, heads)
    with torch.no_grad():
        for own in attention.parameters():
            own.normal_()
        theirs.in_proj_weight.copy_(attention.entry.weight)
        theirs.in_proj_bias.copy_(attention.entry.bias)
        theirs.out_proj.weight.copy_(attention.output.weight)
        theirs.out_proj.bias.copy_(attention.output.bias)
    x = torch.randn(19, width, requires_grad=True)
    held = attend_and_descend(attention, x)
    monkeypatch.setattr(catalogue_attention, "_ROWS_HELD", 0)
    fused = attend_and_descend(attention, x)
    torch.testing.assert_close(held[0], theirs(x, x, x, need_weights=False)[0])
    for one, other in zip(held, fused):
        torch.testing.assert_close(one, other, atol=1e-4 * one.abs().max().item(), rtol=1e-4)
