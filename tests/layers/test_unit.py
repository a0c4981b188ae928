"""Rows of length 1 and cosines, against torch's own functions."""

import pytest
import torch
import torch.nn.functional as F

from recbole_mambarec.layers.unit import row_cosines, unit_rows

FUNCTIONS = {
    "unit rows": (unit_rows, lambda x: F.normalize(x, dim=1), 1),
    "cosines": (row_cosines, lambda a, b: F.cosine_similarity(a, b, dim=1)[:, None], 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_torch_also_for_rows_of_zeros(name):
    ours, plain, count = FUNCTIONS[name]
    inputs = [torch.randn(9, 5) for _ in range(count)]
    inputs[0][2] = 0.0
    results = []
    for function in (ours, plain):
        leaves = [x.clone().requires_grad_() for x in inputs]
        found = function(*leaves)
        weights = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
        results.append([found, *torch.autograd.grad((found * weights).sum(), leaves)])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


def test_float32_whatever_comes_in():
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    unit = unit_rows(x)
    unit.sum().backward()
    assert unit.dtype is torch.float32 and x.grad.dtype is torch.bfloat16
