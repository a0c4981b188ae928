from typing import ClassVar

import numpy as np
import pytest
import torch
from recbole.config import Config

from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.scalar_attention import ScalarAttention
from recbole_mambarec.models.rearm_graphs import drawn_once, shared_graph
from recbole_mambarec.testing.contract import ModelContract


class TestREARM(ModelContract):
    name = "REARM"
    sizes: ClassVar = {"user_knn_k": 5}
    settings: ClassVar = {"epochs": 40, "learning_rate": 0.01, "user_knn_k": 5}
    # outputs of the networks are scaled to length 1 and pass a softmax, which leaves them little say
    smallest_gradient = 1e-6
    inert: ClassVar = {
        "*_attention.*.out_bias": "the LayerNorm behind it takes away what all coordinates have in common",
    }


def test_attention_equals_torchs_at_width_one():
    torch.manual_seed(0)
    ours = ScalarAttention(0.0)
    theirs = torch.nn.MultiheadAttention(1, 1, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.in_weight[:, None])
        theirs.in_proj_bias.copy_(ours.in_bias.normal_())
        theirs.out_proj.weight.fill_(ours.out_weight.item())
        theirs.out_proj.bias.fill_(ours.out_bias.normal_().item())
    query, context = torch.randn(6, 5), torch.randn(6, 5)
    expected = theirs(query[:, :, None], context[:, :, None], context[:, :, None])[0].squeeze(2)
    torch.testing.assert_close(ours(query, context), expected)


def attend_and_descend(attention, query, context):
    """Attention after the same seed, and gradients with respect to everything."""
    torch.manual_seed(1)
    made = attention(query, context)
    return made, *torch.autograd.grad(made.square().sum(), (query, context, *attention.parameters()))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_blocks_of_attention_change_neither_value_nor_gradient(dropout, monkeypatch):
    torch.manual_seed(0)
    attention = ScalarAttention(dropout)
    # 8 x 8 weights take 16 whole words of random bits, so that blocks of rows draw what all rows at once draw
    query, context = (torch.randn(7, 8, requires_grad=True) for _ in range(2))
    results = []
    for weights in (1 << 24, 130):
        monkeypatch.setattr("recbole_mambarec.layers.scalar_attention._WEIGHTS_AT_A_TIME", {"cpu": weights})
        results.append(attend_and_descend(attention, query, context))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_of_attention_are_those_of_its_values(dropout):
    torch.manual_seed(0)
    attention = ScalarAttention(dropout).double()
    query, context = (torch.randn(5, width, dtype=torch.float64, requires_grad=True) for width in (3, 4))

    def attend(query, context, *_):
        torch.manual_seed(1)
        return attention(query, context)

    assert torch.autograd.gradcheck(attend, (query, context, *attention.parameters()))


def test_attention_computes_in_single_precision_under_autocast():
    torch.manual_seed(0)
    attention = ScalarAttention(0.4)
    query, context = (torch.randn(7, 8).bfloat16().requires_grad_() for _ in range(2))
    expected = attend_and_descend(attention, query.float(), context.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = attend_and_descend(attention, query, context)
    assert made[0].dtype == torch.float32
    for one, other in zip(made, expected):
        torch.testing.assert_close(one.float(), other, atol=0.02, rtol=0.02)
    torch.testing.assert_close(made[0], expected[0])


def test_large_products_do_not_overflow():
    attention = ScalarAttention(0.4)
    query, context = (torch.randn(7, 8).mul(1e4).requires_grad_() for _ in range(2))
    assert all(values.isfinite().all() for values in attend_and_descend(attention, query, context))


@pytest.mark.parametrize("dropout", [0.05, 0.4, 0.9])
def test_dropout_drops_that_share_of_the_weights_and_scales_the_others(dropout):
    attention, width = ScalarAttention(dropout), 16
    with torch.no_grad():
        attention.in_weight.copy_(torch.tensor([0.0, 0.0, 1.0]))
        attention.out_weight.fill_(1.0)
    # all weights are 1 / width, and the one value that is not 0 comes through or does not
    context = torch.eye(width).repeat(500, 1)
    made = attention(torch.zeros_like(context), context).detach() * width
    kept = made > 0
    torch.testing.assert_close(made[kept], torch.full_like(made[kept], 1 / (1 - dropout)), rtol=1e-3, atol=0)
    n = kept.numel()
    assert abs(kept.float().mean() - (1 - dropout)) < 5 * (dropout * (1 - dropout) / n) ** 0.5
    # neighbours are dropped independently of each other
    pairs = (kept[:, 1:] & kept[:, :-1]).float().mean()
    assert abs(pairs - (1 - dropout) ** 2) < 0.005
    again = attention(torch.zeros_like(context), context).detach() > 0
    assert (again != kept).any()
    assert torch.equal(attention.eval()(torch.zeros_like(context), context) * width, torch.ones_like(context))


def test_at_rate_1_only_the_bias_is_left_as_with_torchs_dropout():
    """The authors' settings for Sports have it; gradients are 0, not missing, so that AdamW decays the weights."""
    torch.manual_seed(0)
    ours, theirs = ScalarAttention(1.0), torch.nn.MultiheadAttention(1, 1, dropout=1.0, batch_first=True)
    query, context = (torch.randn(7, 8, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        theirs.out_proj.bias.fill_(ours.out_bias.fill_(0.3).item())
    made = ours(query, context)
    torch.testing.assert_close(made, theirs(query[..., None], context[..., None], context[..., None])[0].squeeze(2))
    made.sum().backward()
    assert ours.out_bias.grad == 56
    assert all((x.grad == 0).all() for x in (query, ours.in_weight, ours.in_bias, ours.out_weight))
    assert ours.eval()(query, context).std() > 0


@pytest.mark.parametrize("dropout", [1.1, -0.1])
def test_a_rate_that_is_none_is_refused(dropout):
    with pytest.raises(ValueError, match="from 0 to 1"):
        ScalarAttention(dropout)
    for key in ("self_dropout", "mutual_dropout"):
        with pytest.raises(UserError, match=f"{key} must be a number from 0 to 1"):
            Config("REARM", "ml-100k", config_dict={key: dropout})


def test_nodes_with_few_neighbours_repeat_theirs_and_lonely_ones_receive_from_the_most_active():
    shared = CoOccurrences(np.array([0, 2, 3, 3, 5]), np.array([1, 3, 0, 0, 1]), np.array([2, 1, 2, 3, 1]), 2)
    repeats = drawn_once(shared)
    assert repeats.tolist() == [1, 1, 2, 1, 1] and np.array_equal(repeats, drawn_once(shared))
    graph = shared_graph(shared, repeats, np.array([4.0, 1.0, 0.0, 5.0])).toarray()
    np.testing.assert_allclose(graph.sum(axis=1), 1, atol=1e-6)
    assert set(np.flatnonzero(graph[2])) == {0, 3} and graph[2, 3] > graph[2, 0]
