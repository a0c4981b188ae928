import pytest
import torch

from recbole_mambarec.layers import dream
from recbole_mambarec.layers.dream import DREAM


@pytest.fixture
def short_path(monkeypatch):
    """However few vectors there are, they take the matrix product."""
    monkeypatch.setattr(dream, "_FEW_VECTORS", 0)


def randomised(**options):
    torch.manual_seed(0)
    module = DREAM(8, **options)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    for norm in (module.branch_norm, module.mix_norm):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return module


def test_parameter_count_of_the_released_form():
    assert sum(p.numel() for p in DREAM(64).parameters()) == 141_056


@pytest.mark.parametrize("channel", ["scalar", "squeeze"])
@pytest.mark.parametrize("spatial", ["channels", "mean"])
@pytest.mark.parametrize("training", [True, False])
def test_vectors_take_a_short_path_that_equals_the_convolutions(short_path, channel, spatial, training):
    options = {"channel_attention": channel, "spatial_attention": spatial}
    vectors, maps = (randomised(**options).train(training) for _ in range(2))
    x = torch.randn(12, 8)
    torch.testing.assert_close(vectors(x), maps(x[:, :, None, None])[:, :, 0, 0], atol=1e-6, rtol=1e-5)
    for name, value in vectors.state_dict().items():
        torch.testing.assert_close(value, maps.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_few_vectors_are_maps_of_one_position():
    vectors, maps = randomised(), randomised()
    x = torch.randn(12, 8)
    assert torch.equal(vectors(x), maps(x[:, :, None, None])[:, :, 0, 0])


def test_outer_taps_are_inert_on_vectors_and_alive_on_maps(short_path):
    module = randomised().eval()
    x, image = torch.randn(5, 8), torch.randn(2, 8, 15, 15)
    before, before_map = module(x), module(image)
    for conv in module.dilated:
        outer = torch.ones(3, 3, dtype=torch.bool)
        outer[1, 1] = False
        conv.weight.data[:, :, outer] = torch.randn(8, 8, 8)
    assert torch.equal(module(x), before)
    assert not torch.allclose(module(image), before_map)
    module.train()(x).sum().backward()
    for conv in module.dilated:
        assert conv.weight.grad[:, :, 0, 0].abs().max() == 0
        assert conv.weight.grad[:, :, 1, 1].abs().max() > 0


def test_shapes_and_sign():
    module = randomised()
    assert module(torch.randn(6, 8)).shape == (6, 8)
    assert module(torch.randn(3, 5, 8)).shape == (3, 8, 1, 5)
    out = module(torch.randn(2, 8, 4, 7))
    assert out.shape == (2, 8, 4, 7) and (out >= 0).all()


def test_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="unknown attention"):
        DREAM(4, channel_attention="spatial")


def test_rate_widens_the_dilation():
    assert [conv.dilation for conv in DREAM(4, rate=2).dilated] == [(12, 12), (24, 24), (36, 36)]
