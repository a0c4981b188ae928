import pytest
import torch
from torch import nn

from recbole_mambarec.layers import reconstruction
from recbole_mambarec.layers.features import FeatureBlocks
from recbole_mambarec.layers.mutual_information import ClubEstimator
from recbole_mambarec.layers.reconstruction import reconstruction_error


@pytest.mark.parametrize("on_disk", [False, True])
def test_blocks_have_value_and_gradient_of_the_formula(monkeypatch, on_disk):
    monkeypatch.setattr(reconstruction, "BLOCK_VALUES", 11)
    monkeypatch.setattr("recbole_mambarec.layers.features.BLOCK_VALUES", 11)
    decoder, x, table = nn.Linear(4, 5), torch.randn(9, 4), torch.randn(9, 5, requires_grad=True)
    inputs = [decoder.weight, decoder.bias, *([] if on_disk else [table])]
    held = FeatureBlocks((9, 5), table.device, lambda index: table.detach()[index]) if on_disk else table
    ours, expected = reconstruction_error(decoder, x, held), nn.functional.mse_loss(decoder(x), table)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * expected, inputs)):
        torch.testing.assert_close(one, other)


def test_the_club_bound_is_a_difference_of_log_likelihoods():
    torch.manual_seed(0)
    estimator, given, predicted, order = ClubEstimator(3), torch.randn(6, 3), torch.randn(6, 3), torch.randperm(6)
    deviation = (0.5 * estimator.log_variance(given)).exp()
    likelihood = torch.distributions.Normal(estimator.mean(given), deviation).log_prob
    expected = (likelihood(predicted) - likelihood(predicted[order])).sum(dim=1).mean()
    torch.testing.assert_close(estimator(given, predicted, order), expected)
    constant = 3 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(estimator.misfit(given, predicted), -2 * likelihood(predicted).sum(1).mean() - constant)
