from itertools import product

import pytest
import torch

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.mmgcf import MODES, WEIGHTINGS
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestMMGCF(ModelContract):
    name = "MMGCF"
    settings = {"prune_rate": 0.3}  # noqa: RUF012
    inert = {"projection.*.bias": "it is added to both items of a pair, whose difference BPR takes"}  # noqa: RUF012

    @pytest.mark.parametrize(("mode", "weighting"), product(MODES, WEIGHTINGS))
    def test_every_form_trains_all_that_it_has(self, mode, weighting):
        dataset = random_dataset(dims={"image": 9, "text": 7, "audio": 5})
        model = self.build(dataset, fusion_mode=mode, weighting=weighting)
        sum(model.calculate_loss(self.some_batch(dataset))).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)

    def test_features_of_another_width_need_the_concatenation(self):
        with pytest.raises(UserError, match="fusion_mode mean adds features of width feat_embed_dim 5 to ids"):
            self.build(fusion_mode="mean", feat_embed_dim=5)
        assert self.build(fusion_mode="concat", feat_embed_dim=5).embed()[1].shape[1] == 8

    def test_alpha_begins_in_the_middle(self):
        model = self.build(weighting="alpha", fusion_mode="sum").eval()
        half = model.embed()[1]
        with torch.no_grad():
            model.alpha.fill_(100.0)
        ids = model.eval().embed()[1]
        with torch.no_grad():
            model.alpha.fill_(-100.0)
        torch.testing.assert_close(half, (ids + model.embed()[1]) / 2)
