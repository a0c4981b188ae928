from typing import ClassVar

import numpy as np
import pytest
import torch

from recbole_mambarec.models import itemknncbf
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, random_dataset
from recbole_mambarec.testing.planted import write_planted


class TestItemKNNCBF(ModelContract):
    name = "ItemKNNCBF"
    ranking_loss = "nothing"
    inert: ClassVar = {"placeholder": "nothing is trained"}

    @pytest.mark.parametrize("on_disk", [False, True])
    @pytest.mark.parametrize("shrink", [0, 10])
    def test_scores_are_sums_of_the_largest_similarities(self, monkeypatch, on_disk, shrink):
        """Also where features are searched in blocks, and items lack a modality or both."""
        monkeypatch.setattr(itemknncbf, "_BLOCK_VALUES", 49)
        full = random_dataset()
        image, text = (full.item_features[m].items.copy() for m in ("image", "text"))
        image[[2, 5]], text[[5, 9]] = np.nan, np.nan
        dataset = InMemoryDataset(full.users, full.items, 30, 20, {"image": image, "text": text}, on_disk)
        model = self.build(dataset, shrink=shrink)

        features = np.nan_to_num(np.concatenate([image, text], axis=1))
        norms = np.linalg.norm(features, axis=1)
        similarities = features @ features.T / np.maximum(np.outer(norms, norms) + shrink, 1e-30)
        smallest = np.sort(similarities, axis=1)[:, -4, None]
        kept = np.where(similarities >= smallest, similarities, 0)
        history = np.zeros((30, 20))
        history[dataset.users, dataset.items] = 1
        scores = model.full_sort_predict({"user_id": torch.arange(1, 31)}).view(30, 21)[:, 1:]
        np.testing.assert_allclose(scores, history @ kept, atol=1e-5)

    def test_there_is_one_epoch_whatever_is_asked_for(self, tmp_path):
        trainer, *_ = self.train(write_planted(tmp_path), epochs=7, eval_step=3)
        assert len(trainer.train_loss_dict) == 1 and trainer.best_valid_score > 0
