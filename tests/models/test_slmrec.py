from typing import ClassVar

import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset
from recbole_mambarec.testing.planted import write_planted


class TestSLMRec(ModelContract):
    name = "SLMRec"
    baby_parameters = 2_028_032 - 64 * 65  # the published code has a head for sound that nothing uses
    ranking_loss = "main"
    inert: ClassVar = {
        "head.*.bias": "it shifts all similarities of a row alike, which the softmax of a contrast undoes"
    }

    def test_no_negatives_are_sampled_and_asking_for_them_is_refused(self, tmp_path):
        folder = write_planted(tmp_path)
        with pytest.raises(UserError, match="learns without negative items: leave train_neg_sample_args unset"):
            self.train(folder, train_neg_sample_args={"distribution": "uniform", "sample_num": 1})
        dataset = random_dataset()
        rows = self.some_batch(dataset)
        rows.pop("neg_item_id")
        assert self.build(dataset).calculate_loss(rows)

    @pytest.mark.parametrize(
        ("dims", "steps", "last"),
        [
            ({"image": 4}, ("image",), 8),
            ({"image": 4, "text": 4}, ("image", None, "text"), 4),
            ({"image": 4, "text": 4, "audio": 4}, ("image", "text", "audio"), 4),
        ],
    )
    def test_the_chain_visits_every_modality(self, dims, steps, last):
        model = self.build(random_dataset(dims=dims))
        assert model.steps == steps and model.chain[-1].out_features == last
