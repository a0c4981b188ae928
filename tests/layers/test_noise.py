import torch

from recbole_mambarec.layers.noise import gumbel_noise, signed_noise


def test_signed_noise_has_its_length_and_points_away_from_zero():
    x = torch.randn(50, 8)
    moved = signed_noise(x, 0.1) - x
    torch.testing.assert_close(moved.norm(dim=1), torch.full((50,), 0.1))
    assert (moved * x >= 0).all()


def test_gumbel_noise_has_the_mean_and_variance_of_its_distribution():
    torch.manual_seed(0)
    noise = gumbel_noise(torch.empty(200, 500))
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.var() - 1.645) < 0.03
