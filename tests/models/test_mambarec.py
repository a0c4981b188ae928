import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.losses import mmd_gaussian
from recbole_mambarec.models.mambarec import VARIANTS
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset
from recbole_mambarec.testing.planted import write_planted


class TestMambaRec(ModelContract):
    name = "MambaRec"
    inert: ClassVar = {
        **dict.fromkeys(
            ("projection.*.bias", "dream.*.pointwise.bias", "dream.*.dilated.?.bias", "dream.*.pooled.bias"),
            "a constant that the BatchNorm of the branches takes away",
        ),
        "dream.*.mix.bias": "a constant that the last BatchNorm takes away",
    }

    def test_variants_differ_where_they_should(self):
        dataset = random_dataset()
        released, paper = (self.build(dataset, variant=variant) for variant in VARIANTS)
        assert released.projection["text"].reduce is None
        widths = {m: paper.projection[m].reduce.out_features for m in paper.modalities}
        assert widths == {"image": 1, "text": 1}  # 12 // 8
        assert (released.temperature, paper.temperature) == (0.2, 0.01)
        assert len(list(paper.dream["image"].channel.parameters())) == 4
        assert paper.dream["image"].spatial.in_features == 1

    @pytest.mark.parametrize(("key", "value"), [(k, v) for k in VARIANTS["released"] for v in (VARIANTS["paper"][k],)])
    def test_each_difference_can_be_set_alone(self, key, value):
        dataset = random_dataset()
        losses = [
            sum(self.build(dataset, **settings).calculate_loss(self.some_batch(dataset))).item()
            for settings in ({}, {key: value})
        ]
        assert losses[0] != losses[1]

    def test_paper_variant_learns_too(self, tmp_path):
        _, result, _ = self.train(write_planted(tmp_path), variant="paper")
        assert result["recall@10"] > 0.6

    def test_frozen_features_are_neither_trained_nor_saved(self):
        dataset = random_dataset()
        frozen, trained = self.build(dataset, freeze_features=True), self.build(dataset)
        assert not [name for name in frozen.state_dict() if name.startswith("features")]
        assert {name for name, _ in trained.named_parameters()} > {name for name, _ in frozen.named_parameters()}
        exact = [sum(m.eval().calculate_loss(self.some_batch(dataset))).item() for m in (frozen, trained)]
        assert exact[0] == pytest.approx(exact[1], abs=1e-6)

    def test_one_modality_fuses_to_itself_and_none_to_the_behaviour(self):
        one = self.build(random_dataset(dims={"image": 5})).eval()
        views = one._unfused()
        assert one.fusion.attention is None
        users, items = one.embed()
        torch.testing.assert_close(torch.cat([users, items]), views.behaviour + views.modal["image"])
        none = self.build(random_dataset(dims={})).eval()
        torch.testing.assert_close(torch.cat(none.embed()), 2 * none._views().behaviour)

    def test_mmd_sums_over_pairs_of_modalities(self):
        dataset = random_dataset(dims={"a": 4, "b": 5, "c": 6})
        model = self.build(dataset, dropout_prob=0.0)
        rows = self.some_batch(dataset)
        total = dict(zip(("bpr", "reg", "contrastive", "mmd"), model.calculate_loss(rows)))["mmd"]
        refined = model._unfused().refined
        at = rows["item_id"] - 1
        expected = sum(
            mmd_gaussian(normalize(refined[m][at]), normalize(refined[n][at]), 1.5)
            for m, n in itertools.combinations("abc", 2)
        )
        assert total.item() == pytest.approx(0.15 * expected.item(), rel=1e-4)

    def test_dream_runs_once_per_step_over_the_real_items(self):
        dataset = random_dataset(n_items=20)
        model = self.build(dataset)
        seen = []
        model.dream["image"].register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
        model.calculate_loss(self.some_batch(dataset))
        assert seen == [(20, 8)]
        assert model.dream["image"].branch_norm.num_batches_tracked == 1

    def test_without_dream_the_projections_are_used_as_they_are(self):
        dataset = random_dataset()
        model = self.build(dataset, dream=False)
        refined = model._unfused().refined
        for m in model.modalities:
            torch.testing.assert_close(refined[m], model.projection[m](model.features[m]()))
        assert not [name for name, _ in model.named_parameters() if name.startswith("dream")]
        loss = sum(model.calculate_loss(self.some_batch(dataset)))
        loss.backward()
        assert torch.isfinite(loss)

    def test_reduction_factor_auto_follows_the_spectrum(self):
        rng = np.random.default_rng(0)
        dataset = random_dataset(n_items=60, dims={"image": 30})
        low_rank = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 30))
        dataset.item_features["image"].matrix[1:] = low_rank
        model = self.build(dataset, reduction_factor="auto")
        assert model.projection["image"].reduce.out_features == 3

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            ({"variant": "original"}, "variant 'original' is unknown: use one of released, paper"),
            ({"reduction_factor": 0}, "reduction_factor must be"),
            ({"reduction_factor": "many"}, "reduction_factor must be"),
            ({"channel_attention": "none"}, "channel_attention 'none' is unknown"),
            ({"projection": "wide"}, "projection 'wide' is unknown"),
            ({"contrast": "users"}, "contrast 'users' is unknown"),
        ],
    )
    def test_unknown_values_are_refused(self, overrides, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**overrides)
