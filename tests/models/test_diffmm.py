from typing import ClassVar

import numpy as np
import pytest
import torch

from recbole_mambarec.checkpoint import read_checkpoint
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset
from recbole_mambarec.testing.planted import write_planted


class TestDiffMM(ModelContract):
    name = "DiffMM"
    settings: ClassVar = {"epochs": 20, "hidden_dim": 32}
    sizes: ClassVar = {"hidden_dim": 16}

    def test_rows_of_users_exist_in_blocks_alone(self, monkeypatch):
        """Neither the denoisers' training nor the generation of graphs holds all users' rows."""
        n_users, n_items = 640, 300
        model = self.build(random_dataset(n_users, n_items), diffusion_batch_size=32, sampling_steps=2)
        with torch.profiler.profile(profile_memory=True) as profile:
            for _, loss in model.losses_before_epoch(0):
                loss.backward()
            model.pre_epoch(0)
        assert max(event.self_cpu_memory_usage for event in profile.events()) < n_users * n_items * 4 / 4

    def test_the_generated_graph_is_that_of_the_largest_entries(self):
        dataset = random_dataset()
        model = self.build(dataset, rebuild_k=3)
        model.pre_epoch(0)
        for modality in model.modalities:
            with torch.no_grad():
                rows = model.generate(modality, torch.arange(dataset.n_users))
            block = model.generated[modality].scipy().toarray()[: dataset.n_users, dataset.n_users :]
            for row, edges in zip(rows.numpy(), block):
                assert set(np.flatnonzero(edges)) == set(np.argsort(-row)[:3])

    def test_entries_are_dropped_in_each_direction_and_the_rest_enlarged(self):
        model = self.build(keep_rate=0.5, rebuild_k=3)
        model.pre_epoch(0)
        items, kept = model.other_parameter()["edges"]["text"]
        dropped = model.generated["text"].scipy().toarray()
        model._connect("text", items, None)
        whole = model.generated["text"].scipy().toarray()
        where = dropped != 0
        np.testing.assert_allclose(dropped[where], 2 * whole[where], rtol=1e-6)
        assert where.sum() == kept.sum() and 0.3 < kept.float().mean() < 0.7
        assert (where != where.T).any()

    def test_a_checkpoint_and_a_run_that_continues_have_the_generated_graphs(self, tmp_path):
        folder = write_planted(tmp_path)
        settings = {"keep_rate": 0.7, "rebuild_k": 2}
        whole, result, _ = self.train(folder, epochs=3, **settings)
        first, *_ = self.train(folder, epochs=2, checkpoint_dir="first", **settings)
        items, kept = read_checkpoint(first.saved_model_file)["resume"]["other_parameter"]["edges"]["image"]
        assert items.shape == (60, 2) and not kept.all()
        second, resumed, _ = self.train(folder, epochs=3, resume_from=first.saved_model_file, **settings)
        assert resumed == result
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(second.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize(
        ("contrast", "modalities", "terms"), [("main", 3, 3), ("modalities", 3, 3), ("modalities", 1, 0)]
    )
    def test_which_embeddings_are_contrasted(self, contrast, modalities, terms, monkeypatch):
        calls = []
        dataset = random_dataset(dims={"image": 5, "text": 4, "audio": 3} if modalities == 3 else {"text": 4})
        model = self.build(dataset, contrast=contrast)
        monkeypatch.setattr(model, "contrasts", lambda *args: calls.append(args) or (args[0].sum(), args[1].sum()))
        model.calculate_loss(self.some_batch(dataset))
        assert len(calls) == terms

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"rebuild_k": 0}, "rebuild_k must be at least 1, got 0"),
            ({"keep_rate": 0.0}, "keep_rate must be above 0 and at most 1"),
            ({"sampling_steps": 6}, "sampling_steps must be from 0 to diffusion_steps, got 6"),
            ({"noise_max": 20.0}, "noise_max"),
            ({"contrast": "all"}, "contrast 'all' is unknown: use one of modalities, main"),
            ({"feature_map": "mlp"}, "feature_map 'mlp' is unknown"),
        ],
    )
    def test_values_that_it_cannot_have_are_refused(self, settings, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**settings)
