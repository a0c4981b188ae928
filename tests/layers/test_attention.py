import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.layers.attention import EdgePattern


def pattern_and_mask(seed=0):
    rng = np.random.default_rng(seed)
    matrix = interaction_matrix(rng.integers(0, 6, 14), rng.integers(0, 5, 14), 6, 5)
    matrix.sort_indices()
    return EdgePattern(*matrix.tocoo().coords, matrix.shape), torch.tensor(matrix.toarray()) > 0


@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_both_gradients_equal_dense_ones(transposed):
    pattern, mask = pattern_and_mask()
    values = torch.randn(int(mask.sum()), requires_grad=True)
    x = torch.randn(6 if transposed else 5, 3, requires_grad=True)
    full = torch.zeros(6, 5).masked_scatter(mask, values)
    expected = (full.T if transposed else full) @ x
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), (values, x))
    ours = pattern.propagate(values, x, transposed)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(torch.autograd.grad((ours * weight).sum(), (values, x)), wanted):
        torch.testing.assert_close(a, b)


def test_softmax_equals_the_masked_dense_one_and_survives_large_scores():
    pattern, mask = pattern_and_mask(1)
    scores = 200 * torch.randn(int(mask.sum()))
    full = torch.full((6, 5), -torch.inf).masked_scatter(mask, scores)
    torch.testing.assert_close(pattern.softmax(scores, "rows"), full.softmax(dim=1)[mask])
    torch.testing.assert_close(pattern.softmax(scores, "columns"), full.softmax(dim=0)[mask])


def test_a_pattern_is_not_part_of_a_state_dict():
    assert pattern_and_mask()[0].state_dict() == {}
