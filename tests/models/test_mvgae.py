from typing import ClassVar

import pytest
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.mvgae import product_of_experts, reconstruction, standard_divergence
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestMVGAE(ModelContract):
    name = "MVGAE"
    settings: ClassVar = {"variant": "paper", "epochs": 60}
    sizes: ClassVar = {"variant": "paper"}
    ranking_loss = "reconstruction"

    def test_the_released_loss_pairs_users_with_users(self):
        dataset = random_dataset(n_users=30, n_items=20)
        rows = [torch.tensor(x) for x in ([1, 2], [3, 4], [5, 6])]
        for variant, item_is_trained in (("released", False), ("paper", True)):
            model = self.build(dataset, variant=variant, beta=0.0, dropout_prob=0.0)
            assert model.item_embedding.requires_grad == item_is_trained
            means = [mean for mean, _ in model._gaussians().values()]
            model._gaussians = lambda means=means: {i: (mean, mean * 0) for i, mean in enumerate(means)}
            grad = torch.autograd.grad(model.loss_parts(*rows)["reconstruction"], means[1])[0]
            touched = grad.abs().sum(dim=1).nonzero().flatten().tolist()
            assert set(touched) <= ({1, 2, 3, 4, 5, 6} if variant == "released" else {1, 2, 33, 34, 35, 36})

    def test_more_than_two_layers_act_as_two_and_none_is_refused(self):
        dataset = random_dataset()
        two, five = (self.build(dataset, n_ui_layers=n).eval().embed() for n in (2, 5))
        torch.testing.assert_close(two, five)
        with pytest.raises(UserError, match="n_ui_layers must be at least 1, got 0"):
            self.build(dataset, n_ui_layers=0)


def test_a_surer_expert_counts_more():
    ones = torch.ones(2, 3)
    mean, log_variance = product_of_experts((0 * ones, 0 * ones), (ones, -ones.new_tensor([[3.0]]).log() * ones))
    torch.testing.assert_close(mean, 0.75 * ones)
    torch.testing.assert_close(log_variance, -torch.log(4 * ones))


def test_the_released_loss_takes_the_best_negative_of_all_rows():
    users, positives = torch.eye(2), torch.zeros(2, 2)
    negatives = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    own = reconstruction(users, positives, negatives, released=False)
    torch.testing.assert_close(own, (torch.tensor([1.0, 3.0]).exp() + 1).log2().sum())
    best = reconstruction(users, positives, negatives, released=True)
    margins = 0.5 - torch.tensor([2.0, 3.0]).sigmoid()
    torch.testing.assert_close(best, (1 + (-margins).exp()).log2().sum())


def test_of_negatives_with_equal_sigmoids_the_first_is_the_best():
    """Their products may still differ in the last digit of float32."""
    users, ties = torch.ones(1, 1), torch.tensor([[1.0], [1.0]]).nextafter(torch.tensor([[0.0], [2.0]]))
    assert ties[1] > ties[0] and ties[0].sigmoid() == ties[1].sigmoid()
    negatives = ties.requires_grad_()
    reconstruction(users.repeat(2, 1), torch.zeros(2, 1), negatives, released=True).backward()
    assert negatives.grad[0] > 0 and negatives.grad[1] == 0


def test_a_standard_gaussian_does_not_diverge():
    zeros = torch.zeros(4, 3)
    assert standard_divergence(zeros, zeros) == 0
    torch.testing.assert_close(standard_divergence(zeros + 2.0, zeros), torch.tensor(6.0))
