import numpy as np
import pytest
import torch
from torch import nn

from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.layers.projection import DimensionProjection, width_for_variance


@pytest.mark.parametrize("width", [3, 5, 20])
def test_two_maps_equal_one_after_the_other(width):
    projection = DimensionProjection(30, 5, width)
    x = torch.randn(7, 30, requires_grad=True)
    plain = projection.expand(projection.reduce(x))
    torch.testing.assert_close(projection(x), plain, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(plain)
    ours = torch.autograd.grad((projection(x) * weight).sum(), [x, *projection.parameters()])
    expected = torch.autograd.grad((plain * weight).sum(), [x, *projection.parameters()])
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_width_for_variance():
    assert width_for_variance(np.array([90.0, 5.0, 4.0, 1.0])) == 2
    assert width_for_variance(np.array([1.0, 0.0])) == 1
    assert width_for_variance(np.zeros(4)) == 1
    assert width_for_variance(np.ones(100)) == 95


def test_fusion_equals_the_formula():
    fusion = BehaviourGuidedFusion(4, ["image", "text"])
    h, x, y = torch.randn(3, 6, 4)
    scores = torch.stack([fusion.attention(x), fusion.attention(y)])
    w = scores.softmax(0)
    common = w[0] * x + w[1] * y
    gates = {
        m: nn.functional.linear(h, fusion.preference[m].weight, fusion.preference[m].bias).sigmoid()
        for m in fusion.preference
    }
    expected = (gates["image"] * (x - common) + gates["text"] * (y - common) + common) / 3
    torch.testing.assert_close(fusion({"image": x, "text": y}, h), expected)


def test_fusion_of_one_modality_and_of_none():
    h, x = torch.randn(2, 6, 4)
    assert BehaviourGuidedFusion(4, ["image"])({"image": x}, h) is x
    assert BehaviourGuidedFusion(4, [])({}, h) is h
