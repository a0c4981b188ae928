from pathlib import Path
from typing import ClassVar

import pytest
import torch

from recbole_mambarec.checkpoint import read_checkpoint
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.discriminator import Discriminator
from recbole_mambarec.models.mmssl import similarities
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset
from recbole_mambarec.testing.planted import write_planted


class TestMMSSL(ModelContract):
    name = "MMSSL"
    settings: ClassVar = {"epochs": 20}
    inert: ClassVar = {"discriminator.linear.[01].bias": "a batch norm follows"}

    def test_memory_is_linear_in_items(self):
        """But for the discriminator's weights, and rows of the batch that it sees: nothing else is as wide."""
        n_items, n_batch = 2000, 20
        dataset = random_dataset(n_users=40, n_items=n_items, dims={"image": 4, "text": 4})
        model = self.build(dataset)
        rows = self.some_batch(dataset, n_batch)
        with torch.profiler.profile(profile_memory=True) as profile:
            for _, loss in self.all_losses(model, rows):
                loss.backward()
        weights = model.discriminator.linear[0].weight.numel()
        assert weights == n_items**2 / 4
        assert max(event.self_cpu_memory_usage for event in profile.events()) <= 4 * weights

    def test_the_learnt_graphs_follow_the_published_steps(self):
        """They are collected in the first step of an epoch, built in the second, and emptied in the third."""
        dataset = random_dataset()
        model = self.build(dataset, picked_share=0.1)
        sizes = []
        for epoch in range(2):
            model.pre_epoch(epoch)
            for _ in range(4):
                model.calculate_loss(self.some_batch(dataset))
                learnt = model.other_parameter()["learnt"]
                sizes.append(None if learnt is None else learnt["text"].shape[1])
        assert sizes == [None, 2 * 16, 0, 0, 0, 2 * 16, 0, 0]

    def test_the_repaired_form_collects_in_every_step_and_books_items_for_their_users(self):
        dataset = random_dataset()
        model = self.build(dataset, variant="paper", picked_share=0.1, graph_steps=2)
        model.pre_epoch(0)
        rows = self.some_batch(dataset)
        users = rows["user_id"] - 1
        for _ in range(2):
            with torch.no_grad():
                looks = similarities(model.train()._views().features, users, model.seen(users))
            model.calculate_loss(rows)
        learnt = model.other_parameter()["learnt"]["image"]
        assert learnt.shape[1] == 2 * 2 * 16
        torch.testing.assert_close(learnt[0, -2 * 16 :], users.repeat_interleave(2))
        assert looks["image"].shape == (16, dataset.n_items)
        model.calculate_loss(rows)
        assert model.other_parameter()["learnt"]["image"] is learnt

    def test_modalities_attend_to_each_other_in_the_repaired_form_alone(self):
        dataset = random_dataset()
        for variant, names in (("released", {"output"}), ("paper", {"output", "query", "key"})):
            model = self.build(dataset, variant=variant, n_heads=2, picked_share=0.3)
            assert set(model.attention) == names
            # only learnt graphs tell modalities apart
            model.calculate_loss(self.some_batch(dataset))
            sum(model.calculate_loss(self.some_batch(dataset))).backward()
            assert all(weight.grad.abs().max() > 0 for weight in model.attention.values())

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"variant": "paper", "n_heads": 3}, "embedding_size 8 must be a multiple of n_heads, 3"),
            ({"graph_steps": 0}, "graph_steps must be a number of steps from 1, got 0"),
            ({"real_temperature": 0.0}, "real_temperature must be positive"),
            ({"discriminator_dropout": [0.5]}, "discriminator_dropout must be two rates"),
            ({"discriminator_dropout": [0.5, 1.0]}, "discriminator_dropout must be two rates"),
            ({"picked_share": 1.5}, "picked_share must be from 0 to 1"),
        ],
    )
    def test_values_that_it_cannot_have_are_refused(self, settings, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**settings)

    def test_a_run_continues_with_its_graphs_and_its_discriminator(self, tmp_path):
        folder = write_planted(tmp_path)
        settings = {"picked_share": 0.1, "graph_steps": 2, "train_batch_size": 64}
        whole, result, _ = self.train(folder, epochs=3, **settings)
        first, *_ = self.train(folder, epochs=2, checkpoint_dir="first", **settings)
        learnt = read_checkpoint(first.saved_model_file)["resume"]["other_parameter"]["learnt"]
        assert learnt["image"].shape[1] > 0
        second, resumed, _ = self.train(folder, epochs=3, resume_from=str(Path(first.saved_model_file)), **settings)
        assert resumed == result
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(second.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_the_written_out_gradient_is_that_of_autograd():
    torch.manual_seed(0)
    discriminator = Discriminator(16, (0.3, 0.5))
    for parameter in discriminator.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    rows = torch.randn(10, 16, requires_grad=True)
    torch.manual_seed(1)
    (gradient,) = torch.autograd.grad(discriminator(rows).sum(), rows)
    torch.manual_seed(1)
    torch.testing.assert_close(
        discriminator.slopes(discriminator.first(rows.detach())), gradient.norm(dim=1), rtol=1e-4, atol=1e-5
    )
