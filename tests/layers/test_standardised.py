import torch

from recbole_mambarec.layers.standardised import standardised_rows


def test_rows_have_mean_0_and_deviation_1_unless_all_values_are_the_same():
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    found = standardised_rows(x)
    torch.testing.assert_close(found[0], (x[0] - 3) / 3.5**0.5)
    assert not found[1].any() and torch.equal(x[0], torch.tensor([1.0, 2.0, 3.0, 6.0]))
