from typing import ClassVar

import numpy as np
import torch

from recbole_mambarec.data.graphs.co_occurrence import CoOccurrences
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


def test_blocks_of_attention_change_neither_value_nor_gradient(monkeypatch):
    torch.manual_seed(0)
    attention, results = ScalarAttention(0.0), []
    query, context = (torch.randn(7, 4, requires_grad=True) for _ in range(2))
    for values in (1 << 24, 33):
        monkeypatch.setattr("recbole_mambarec.layers.scalar_attention._BLOCK_VALUES", values)
        made = attention(query, context)
        results.append((made, *torch.autograd.grad(made.square().sum(), (query, context, *attention.parameters()))))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


def test_nodes_with_few_neighbours_repeat_theirs_and_lonely_ones_receive_from_the_most_active():
    shared = CoOccurrences(np.array([0, 2, 3, 3, 5]), np.array([1, 3, 0, 0, 1]), np.array([2, 1, 2, 3, 1]), 2)
    repeats = drawn_once(shared)
    assert repeats.tolist() == [1, 1, 2, 1, 1] and np.array_equal(repeats, drawn_once(shared))
    graph = shared_graph(shared, repeats, np.array([4.0, 1.0, 0.0, 5.0])).toarray()
    np.testing.assert_allclose(graph.sum(axis=1), 1, atol=1e-6)
    assert set(np.flatnonzero(graph[2])) == {0, 3} and graph[2, 3] > graph[2, 0]
