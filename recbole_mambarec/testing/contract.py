"""What every model must do. A model's test class inherits :class:`ModelContract` and names the model::

    from recbole_mambarec.testing.contract import ModelContract

    class TestTheirModel(ModelContract):
        name = "TheirModel"

The class attributes are what a test class may set. A model's own tests go into the same class and use
:meth:`ModelContract.build`, :meth:`ModelContract.some_batch` and :meth:`TrainingContract.train`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.quick_start import run_recbole
from recbole.utils import ModelType, get_model, get_trainer, init_seed
from recbole.utils.case_study import full_sort_topk

from recbole_mambarec import registry
from recbole_mambarec.config import default_properties
from recbole_mambarec.data.graphs.neighbours import Neighbours
from recbole_mambarec.data.user_features import Tokens, UserFeatures
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.layers.features import FeatureBlocks, FeatureTable
from recbole_mambarec.memory import StepMemory, need
from recbole_mambarec.models.cold import choices, scale_obstacle
from recbole_mambarec.testing.data import InMemoryDataset, batch, model_config, random_dataset
from recbole_mambarec.testing.devices import CAN_SIMULATE_GPU, simulated_gpu
from recbole_mambarec.testing.memory import parameters_by_optimizer, step_peak
from recbole_mambarec.testing.planted import QUICK, write_halves, write_planted
from recbole_mambarec.testing.waits import Waits

# settings under which features alone tell the planted halves
_ON_HALVES = {"epochs": 20, "knn_k": 10}


class TrainingContract:
    """What must hold for RecBole's own models as well; it uses RecBole's interface alone.

    Inherit it and set ``name``; ``settings`` are overrides under which the model learns the planted dataset quickly.
    """

    name: str
    settings: ClassVar[dict] = {}
    # what rounding may change in a score between a ranking and a pair; standardised scores are larger than embeddings
    rounding: ClassVar[float] = 1e-6

    @pytest.fixture(autouse=True)
    def _folder_of_its_own(self, tmp_path, monkeypatch):
        """RecBole writes to the working directory, and takes the arguments of the process for settings."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("sys.argv", ["pytest"])

    def train(self, folder, seed: int = 5, **overrides):
        """Train on a prepared dataset: (trainer, test result, test data)."""
        settings = QUICK | self.settings | {"data_path": str(folder.parent), "seed": seed} | overrides
        config = Config(self.name, folder.name, config_dict=settings)
        init_seed(config["seed"], True)
        train, valid, test = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], True)
        model = get_model(self.name)(config, train._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], self.name)(config, model)
        trainer.fit(train, valid, verbose=False)
        return trainer, dict(trainer.evaluate(test)), test

    def test_learns_the_planted_groups(self, tmp_path):
        """12 of 48 items are in a user's group; 6 are masked, so a perfect model finds the test item in the first 6."""
        folder = write_planted(tmp_path)
        _, result, _ = self.train(folder)
        chance = 10 / 42
        assert result["recall@10"] > 3 * chance > 2 * _recall_of_popularity(folder)

    def test_recbole_runs_it(self, tmp_path):
        """Through RecBole's own entry point, which also counts the operations of a pass before training."""
        folder = write_planted(tmp_path)
        settings = QUICK | self.settings | {"data_path": str(folder.parent), "epochs": 1}
        result = run_recbole(model=self.name, dataset=folder.name, config_dict=settings)
        assert 0 <= result["test_result"]["recall@10"] <= 1

    def test_scores_after_training(self, tmp_path):
        """Losses are finite, a pair's score is that of the full ranking, and padding is never recommended."""
        trainer, _, test = self.train(write_planted(tmp_path), epochs=2)
        losses = list(trainer.train_loss_dict.values())
        assert len(losses) == (2 if self._trains else 1) and np.isfinite(losses).all()
        model, n_items = trainer.model.eval(), test._dataset.item_num
        users = torch.arange(1, 4)
        with torch.no_grad():
            ranked = model.full_sort_predict(Interaction({"user_id": users})).view(len(users), -1)
            for row, user in zip(ranked, users):
                pairs = {"user_id": user.repeat(n_items - 1), "item_id": torch.arange(1, n_items)}
                torch.testing.assert_close(row[1:], model.predict(Interaction(pairs)), atol=self.rounding, rtol=1e-5)
        _, top = full_sort_topk(users.numpy(), model, test, k=20)
        assert top.shape == (len(users), 20) and (top > 0).all()

    def test_trains_under_mixed_precision(self, tmp_path):
        trainer, result, _ = self.train(write_planted(tmp_path), epochs=1, enable_amp=True)
        assert np.isfinite(list(trainer.train_loss_dict.values())).all()
        assert 0 <= result["recall@10"] <= 1

    def test_an_unknown_key_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="'learning_rat' is unknown: did you mean 'learning_rate'"):
            self.train(write_planted(tmp_path), learning_rat=0.1)

    def test_same_seed_same_result(self, tmp_path):
        folder = write_planted(tmp_path)
        results = [self.train(folder, seed=seed, epochs=3)[1] for seed in (1, 1, 2)]
        assert results[0] == results[1]
        # where nothing is trained, there is nothing to draw
        assert (results[0] != results[2]) == self._trains

    @property
    def _trains(self) -> bool:
        return get_model(self.name).type is not ModelType.TRADITIONAL

    def test_a_checkpoint_restores_the_scores(self, tmp_path):
        self.checkpoint(tmp_path)

    def checkpoint(self, tmp_path) -> str:
        """Train, restore the checkpoint in another trainer and compare the results; returns the checkpoint's path."""
        folder = write_planted(tmp_path)
        trainer, result, test = self.train(folder, epochs=3)
        file = trainer.saved_model_file
        # RecBole names the file after the second at which training starts
        other, *_ = self.train(folder, seed=9, epochs=1, checkpoint_dir="other")
        assert dict(other.evaluate(test, model_file=file)) == result
        return file


class Popularity(TrainingContract):
    """The baseline that every model has to beat (not collected: its name does not start with Test)."""

    name = "Pop"


class Collaborative(TrainingContract):
    """A model that uses no features, not collected either."""

    name = "BPR"


# the baselines do not depend on the model that is tested: each is trained once
_recalls: dict[str, float] = {}


def _recall_of_popularity(planted: Path) -> float:
    """Recall@10 of :class:`Popularity` on the planted groups."""
    if "Pop" not in _recalls:
        _recalls["Pop"] = Popularity().train(planted, epochs=1)[1]["recall@10"]
    return _recalls["Pop"]


def _recall_of_bpr(halves: Path) -> float:
    """Recall@10 of :class:`Collaborative` on the planted halves, under the settings of all models."""
    if "BPR" not in _recalls:
        _recalls["BPR"] = Collaborative().train(halves, **_ON_HALVES)[1]["recall@10"]
    return _recalls["BPR"]


class ModelContract(TrainingContract):
    """What must hold for the models of this package and of those that build on it."""

    # name of the loss part that ranks
    ranking_loss: ClassVar[str] = "bpr"
    # overrides that keep the model as small as the data of the tests
    sizes: ClassVar[dict] = {}
    # the model needs a feature table as a whole, not only its products with weights
    whole_features: ClassVar[bool] = False
    # pattern of parameter names -> why these trainable parameters have zero gradient by the model's definition
    inert: ClassVar[dict[str, str]] = {}
    # share of the largest gradient from which a gradient counts as more than rounding
    smallest_gradient: ClassVar[float] = 1e-5
    # where the model's definition prevents it: why features alone cannot tell it which items a user will like
    features_cannot_rank: ClassVar[str | None] = None
    # number of parameters of the published model on Amazon Baby, if known
    baby_parameters: ClassVar[int | None] = None

    def build(self, dataset: InMemoryDataset | None = None, seed: int = 0, **overrides):
        """The model on random data in memory, as small as that data."""
        torch.manual_seed(seed)
        small = {"embedding_size": 8, "knn_k": 4, "n_neighbors": 4}
        config = model_config(self.name, **(small | self.sizes | overrides))
        return get_model(self.name)(config, dataset or random_dataset())

    def some_batch(self, dataset: InMemoryDataset, size: int = 16):
        """A batch of random training interactions and random negatives, in RecBole's ids."""
        rng = np.random.default_rng(1)
        rows = rng.integers(0, len(dataset.users), size)
        return batch(dataset.users[rows], dataset.items[rows], rng.integers(0, dataset.n_items, size))

    def all_losses(self, model, rows: dict) -> Iterator[tuple[str | None, torch.Tensor]]:
        """What the trainer minimises in an epoch of one batch, by the name of the part; None: all other parameters."""
        yield from model.losses_before_epoch(0)
        model.pre_epoch(0)
        yield from model.losses_before_step(*model.nodes_of(rows))
        yield None, sum(model.calculate_loss(rows))

    def test_the_search_space_varies_keys_of_the_model_within_their_type(self):
        path = registry.entry(self.name).search_space
        if path is None:
            pytest.skip("the model comes without a search space")
        defaults = default_properties("overall") | default_properties("model", self.name)
        for parameter in read_space(path).parameters:
            default = defaults[parameter.name]
            values = parameter.values if parameter.kind == "choice" else [parameter.value(parameter.values[0])]
            assert all(type(value) is type(default) for value in values), parameter.name

    def test_a_checkpoint_restores_the_scores(self, tmp_path):
        saved = torch.load(self.checkpoint(tmp_path), weights_only=True)
        assert saved["config"]["model"] == self.name

    @pytest.mark.parametrize("dims", [{}, {"text": 7}, {"image": 9, "text": 7, "audio": 5}])
    def test_any_number_of_modalities(self, dims):
        dataset = random_dataset(dims=dims)
        if len(dims) < get_model(self.name).min_modalities:
            with pytest.raises(UserError, match=f"{self.name} is defined on item features"):
                self.build(dataset)
            return
        model = self.build(dataset)
        loss = sum(model.calculate_loss(self.some_batch(dataset)))
        loss.backward()
        assert torch.isfinite(loss)

    def test_the_names_of_modalities_do_not_matter(self):
        """Not even names that models give to branches and loss parts of their own.

        Both lists have the same order in the alphabet, also beside ``fused`` and ``ids``: torch sorts the parameters of
        a dictionary, and what is drawn for them depends on it.
        """
        widths = (5, 6, 7, 8)
        losses, scores = [], []
        for names in (("fused", "id", "ids", "preference"), ("e", "g", "h", "z")):
            dataset = random_dataset(dims=dict(zip(names, widths)))
            model = self.build(dataset)
            torch.manual_seed(1)
            losses.append(torch.stack(model.calculate_loss(self.some_batch(dataset))))
            scores.append(model.eval().full_sort_predict({"user_id": torch.arange(1, 4)}))
        torch.testing.assert_close(*losses, atol=0, rtol=0)
        torch.testing.assert_close(*scores, atol=0, rtol=0)

    @pytest.mark.parametrize("modality", ["image.small", "items", ""])
    def test_a_name_that_torch_cannot_hold_is_refused(self, modality):
        with pytest.raises(UserError, match=f"'{modality}' cannot be the name of a modality"):
            self.build(random_dataset(dims={modality: 5}))

    def test_loss_parts_are_named_and_finite(self):
        dataset = random_dataset()
        model = self.build(dataset)
        losses = model.calculate_loss(self.some_batch(dataset))
        assert len(model.loss_names) == len(losses) and self.ranking_loss in model.loss_names
        assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses)

    def test_features_matter(self, tmp_path):
        """Where only the features give the answer, the model finds it and a model without features does not."""
        folder = write_halves(tmp_path)
        chance = 10 / (96 - 5 - 2)
        recall = self.train(folder, **_ON_HALVES)[1]["recall@10"]
        if self.features_cannot_rank is not None:
            assert recall < 2 * chance, "features do matter: remove features_cannot_rank"
            return
        assert _recall_of_bpr(folder) < 2 * chance < 0.4 < recall

    def test_every_parameter_is_trained(self):
        """Each has a gradient, larger than what rounding leaves of a sum that is zero by definition."""
        dataset = random_dataset()
        reached: set[str] = set()
        all_names: set[str] = set()
        for seed in range(3):
            model = self.build(dataset, seed)
            for parameter in model.parameters():
                # a weight that starts at zero cuts the gradient of everything behind it
                parameter.data += 0.3 * torch.randn_like(parameter)
            parameters = parameters_by_optimizer(model)
            for part, loss in self.all_losses(model, self.some_batch(dataset)):
                loss.backward(inputs=parameters[part])
            names = {id(p): name for name, p in model.named_parameters()}
            for group in parameters.values():
                trained = {names[id(p)]: p.grad for p in group}
                assert not [name for name, gradient in trained.items() if gradient is None]
                largest = {name: gradient.abs().max().item() for name, gradient in trained.items()}
                all_names |= largest.keys()
                least = self.smallest_gradient * max(largest.values())
                reached |= {name for name, size in largest.items() if size > least}
        inert = {name for name in all_names if any(fnmatchcase(name, pattern) for pattern in self.inert)}
        assert all_names - reached == inert

    @pytest.mark.skipif(not CAN_SIMULATE_GPU, reason="needs torch 2.13")
    @pytest.mark.parametrize("frozen", [True, False])
    def test_everything_is_on_the_device_of_the_model(self, frozen):
        """Checked on a simulated GPU; what ``pre_epoch`` builds is built before the model moves there."""
        dataset = random_dataset()
        model = self.build(dataset, freeze_features=frozen)
        model.pre_epoch(0)
        with simulated_gpu(model):
            rows = {name: torch.zeros_like(ids, device="cuda") for name, ids in self.some_batch(dataset).items()}
            model.train()
            apart = [*model.losses_before_epoch(0), *model.losses_before_step(*model.nodes_of(rows))]
            losses = *model.calculate_loss(rows), *(loss for _, loss in apart)
            model.eval()
            scores = model.full_sort_predict(rows), model.predict(rows)
            assert {part.device.type for part in (*losses, *scores)} == {"cuda"}

    def test_as_many_parameters_as_the_published_model(self, monkeypatch):
        """At Amazon Baby's sizes; item graphs have self-loops alone, as no parameter depends on their edges."""
        if self.baby_parameters is None:
            pytest.skip("not published")
        loops = lambda features, k, *_, **__: Neighbours(  # noqa: E731
            np.arange(len(features), dtype=np.int32)[:, None], np.ones((len(features), 1), dtype=np.float32)
        )
        monkeypatch.setattr("recbole_mambarec.data.training.nearest_neighbours", loops)
        monkeypatch.setattr("recbole_mambarec.data.training.content_key", lambda *_: "")
        users, items = 19445, 7050
        features = {m: np.zeros((items, dim), dtype=np.float32) for m, dim in (("image", 4096), ("text", 384))}
        dataset = InMemoryDataset(np.arange(users), np.arange(users) % items, users, items, features)
        model = get_model(self.name)(model_config(self.name), dataset)
        assert sum(p.numel() for p in model.parameters()) == self.baby_parameters

    def test_full_sort_equals_pairs_and_padding_comes_last(self):
        dataset = random_dataset()
        model = self.build(dataset).eval()
        users = torch.arange(1, 4)
        scores = model.full_sort_predict({"user_id": users}).view(3, -1)
        assert scores.shape[1] == dataset.n_items + 1
        assert torch.isneginf(scores[:, 0]).all()
        items = torch.arange(1, dataset.n_items + 1)
        for row, user in zip(scores, users):
            pairs = model.predict({"user_id": user.repeat(len(items)), "item_id": items})
            torch.testing.assert_close(row[1:], pairs, atol=self.rounding, rtol=1e-5)

    def test_evaluation_embeddings_are_computed_once_and_dropped_when_training_resumes(self):
        if not self._trains:
            pytest.skip("nothing is trained")
        dataset = random_dataset()
        model = self.build(dataset).eval()
        calls = []
        embed = model.embed

        def counted():
            calls.append(1)
            return embed()

        model.embed = counted
        for _ in range(3):
            model.full_sort_predict({"user_id": torch.tensor([1])})
        assert len(calls) == 1
        model.train()
        model.eval()
        model.predict({"user_id": torch.tensor([1]), "item_id": torch.tensor([1])})
        assert len(calls) == 2
        model.load_state_dict(model.state_dict())
        model.predict({"user_id": torch.tensor([1]), "item_id": torch.tensor([1])})
        assert len(calls) == 3

    def test_padding_touches_nothing(self):
        """The values in the padding row of the features change nothing."""
        dataset = random_dataset()
        before = self.build(dataset)
        first = [loss.item() for loss in before.calculate_loss(self.some_batch(dataset))]
        for features in dataset.item_features.values():
            assert isinstance(features.matrix, np.ndarray)
            features.matrix[0] = 1e6
        after = self.build(dataset)
        assert [loss.item() for loss in after.calculate_loss(self.some_batch(dataset))] == first
        for name, value in before.state_dict().items():
            torch.testing.assert_close(value, after.state_dict()[name], atol=0, rtol=0)

    def test_runs_under_autocast(self):
        dataset = random_dataset()
        model = self.build(dataset, dropout_prob=0.0)
        torch.manual_seed(1)
        exact = sum(model.calculate_loss(self.some_batch(dataset)))
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sum(model.calculate_loss(self.some_batch(dataset)))
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.02)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model.eval().full_sort_predict({"user_id": torch.tensor([1, 2])})
        assert torch.isfinite(scores.view(2, -1)[:, 1:]).all()

    @pytest.mark.parametrize("frozen", [True, False])
    def test_features_on_disk_change_nothing(self, frozen, monkeypatch):
        """Loss, gradients and scores are those of features in memory, and no frozen table is held as a whole."""
        whole = []
        dense = FeatureBlocks.dense

        def counted(table):
            whole.append(table.shape)
            return dense(table)

        monkeypatch.setattr(FeatureBlocks, "dense", counted)
        monkeypatch.setattr("recbole_mambarec.layers.features.BLOCK_VALUES", 40)
        losses, models = [], []
        for on_disk in (False, True):
            dataset = random_dataset(on_disk=on_disk)
            model = self.build(dataset, freeze_features=frozen, dropout_prob=0.0)
            torch.manual_seed(1)
            losses.append(sum(model.calculate_loss(self.some_batch(dataset))))
            losses[-1].backward()
            models.append(model)
        torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-5)
        expected, found = (dict(model.named_parameters()) for model in models)
        assert found.keys() == expected.keys()
        for name, parameter in expected.items():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name].grad, parameter.grad, atol=1e-6, rtol=1e-4)
        users = {"user_id": torch.arange(1, 4)}
        scores = [model.eval().full_sort_predict(users) for model in models]
        torch.testing.assert_close(*scores, atol=self.rounding, rtol=1e-5)
        assert bool(whole) == (frozen and self.whole_features)

    @pytest.mark.parametrize("amp", [False, True])
    def test_no_step_waits_for_the_device(self, amp):
        """No operation reads a value or gives a result whose size depends on values: the CPU would wait for a GPU."""
        dataset = random_dataset()
        model = self.build(dataset)
        model.pre_epoch(0)
        rows = self.some_batch(dataset)
        with Waits() as waits, torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            for losses in (model.losses_before_epoch(0), model.losses_before_step(*model.nodes_of(rows))):
                for _, loss in losses:
                    loss.backward()
            sum(model.calculate_loss(rows)).backward()
        assert waits.seen == []

    def test_memory_is_linear_in_items(self, monkeypatch):
        """No allocation of a step comes near items x items or batch x batch x d."""
        # blocks have a fixed size: make them as small as the data
        monkeypatch.setattr("recbole_mambarec.layers.losses._PAIRS_AT_A_TIME", {"cpu": 1 << 16})
        monkeypatch.setattr("recbole_mambarec.layers.scalar_attention._WEIGHTS_AT_A_TIME", {"cpu": 1 << 16})
        monkeypatch.setattr("recbole_mambarec.models.damrs._SHARES_AT_A_TIME", 1 << 16)
        monkeypatch.setattr("recbole_mambarec.data.graphs.neighbours._BLOCK_VALUES", 1 << 17)
        n_items, n_batch = 2500, 640
        dataset = random_dataset(n_users=40, n_items=n_items, dims={"image": 4, "text": 4})
        model = self.build(dataset)
        assert n_batch**2 * model.embedding_size > n_items**2 / 2
        rows = self.some_batch(dataset, n_batch)
        with torch.profiler.profile(profile_memory=True) as profile:
            for _, loss in self.all_losses(model, rows):
                loss.backward()
        assert max(event.cpu_memory_usage for event in profile.events()) < n_items * n_items * 4 / 8

    def memory_share(self, n_users: int = 1500, n_items: int = 500, batch_size: int = 64, **overrides) -> float:
        """The estimate of a training step's memory over what a step really holds."""
        dataset = random_dataset(n_users, n_items, dims={"image": 256, "text": 64}, on_disk=True)
        torch.manual_seed(0)
        config = model_config(self.name, train_batch_size=batch_size, **overrides)
        model = get_model(self.name)(config, dataset)
        estimate = need(model.memory_of(config, model.data), config, model.data)
        rows = self.some_batch(dataset, min(batch_size, len(dataset.users)))
        return (estimate.features + estimate.step) / step_peak(model, rows)

    @pytest.mark.parametrize("frozen", [True, False])
    def test_the_memory_estimate_is_near_what_training_holds(self, frozen, monkeypatch):
        if not self._trains:
            pytest.skip("nothing is trained")
        # blocks of pairs have a fixed size, which is no part of the estimate and would count on data this small
        monkeypatch.setattr("recbole_mambarec.layers.losses._PAIRS_AT_A_TIME", {"cpu": 1 << 16})
        share = self.memory_share(freeze_features=frozen)
        assert share > 0.75
        assert share < 1.35 or self._is_unmeasured

    def test_the_memory_estimate_of_a_batch_beyond_the_data(self, monkeypatch):
        if not self._trains:
            pytest.skip("nothing is trained")
        # blocks of pairs have a fixed size, next to which such a batch would be negligible
        monkeypatch.setattr("recbole_mambarec.layers.losses._PAIRS_AT_A_TIME", {"cpu": 1 << 16})
        share = self.memory_share(n_users=500, n_items=300, batch_size=65_536, freeze_features=False)
        assert share > 0.75
        assert share < 1.5 or self._is_unmeasured

    def test_modality_dropout_is_for_the_loss_alone(self):
        """Losses are finite and scores are those of the same weights without it; or the model refuses it."""
        dataset = random_dataset()
        model, plain = self.build(dataset, modality_dropout=0.9), self.build(dataset)
        if not any(isinstance(module, FeatureTable) and module.dropout for module in model.modules()):
            with pytest.raises(UserError, match=f"modality_dropout has no effect on {self.name}"):
                model.tables_with_dropout()
            return
        users = {"user_id": torch.arange(1, 4)}
        scores = [each.eval().full_sort_predict(users) for each in (model, plain)]
        torch.testing.assert_close(*scores, atol=0, rtol=0)
        losses = []
        for each in (model.train(), plain.train()):
            torch.manual_seed(1)
            losses.append(torch.stack(each.calculate_loss(self.some_batch(dataset))))
        assert torch.isfinite(losses[0]).all() and not torch.equal(*losses)
        for table in model.tables_with_dropout():
            assert torch.equal(table()[:], table._table()[:])

    @pytest.mark.parametrize("how", ["content", "neighbours"])
    def test_cold_items_change_scores_alone(self, how):
        """An item without training interactions is scored without its id, which stays in the model; or refused."""
        dataset = random_dataset()
        kept = dataset.items != 3
        dataset.users, dataset.items = dataset.users[kept], dataset.items[kept]
        model = self.build(dataset, cold_items=how)
        if how not in choices(model, model.data):
            with pytest.raises(UserError, match=f"cold_items: {self.name}, which .* does not support '{how}'"):
                model.check_cold_items()
            return
        before = {name: values.detach().clone() for name, values in model.named_parameters()}
        users = {"user_id": torch.arange(1, 4)}
        scores = model.eval().full_sort_predict(users).view(3, -1)[:, 1:]
        for name, values in model.named_parameters():
            torch.testing.assert_close(values, before[name], atol=0, rtol=0)
        plain = self.build(dataset).eval().full_sort_predict(users).view(3, -1)[:, 1:]
        assert torch.isfinite(scores).all() and not torch.equal(scores[:, 3], plain[:, 3])

    def test_cold_scale_lengthens_what_new_items_are_ranked_by(self):
        """Scores of an item without training interactions grow, those of all others stay; or it is refused."""
        dataset = random_dataset()
        kept = dataset.items != 3
        dataset.users, dataset.items = dataset.users[kept], dataset.items[kept]
        plain, scaled, longer = (self.build(dataset, cold_scale=scale).eval() for scale in (0.0, 0.5, 1.5))
        if scale_obstacle(plain, plain.data) is not None:
            with pytest.raises(UserError, match=f"cold_scale has no effect on {self.name}"):
                scaled.check_cold_items()
            return
        scaled.check_cold_items()
        users = {"user_id": torch.arange(1, 4)}
        scores = [model.full_sort_predict(users).view(3, -1)[:, 1:] for model in (plain, scaled, longer)]
        pairs = {"user_id": torch.full((20,), 2), "item_id": torch.arange(1, 21)}
        torch.testing.assert_close(longer.predict(pairs), scores[2][1], atol=1e-6, rtol=1e-5)
        others = torch.arange(20) != 3
        for found in scores[1:]:
            torch.testing.assert_close(found[:, others], scores[0][:, others], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(scores[2][:, 3], 3 * scores[1][:, 3], atol=1e-6, rtol=1e-4)
        if plain.cold_scale_of == "embeddings":
            lengths = longer.scored_embeddings()[1][1:].norm(dim=1)
            assert lengths[3].item() == pytest.approx(1.5 * lengths[others].square().mean().sqrt().item(), rel=1e-4)

    def test_cold_users_are_ranked_by_popularity_or_by_similar_users(self):
        """In rankings and for pairs, while the scores of all others stay what they are."""
        dataset = random_dataset()
        kept = dataset.users != 1
        dataset.users, dataset.items = dataset.users[kept], dataset.items[kept]
        # users 1, 6, 11, ... are alike
        dataset.user_features = UserFeatures({"group": Tokens(np.arange(30) % 5)})
        popularity = np.bincount(dataset.items, minlength=20)
        of_group = np.bincount(dataset.items[dataset.users % 5 == 1], minlength=20)
        wanted = {"popularity": popularity, "features": of_group + popularity / (popularity.max() + 1)}
        users = {"user_id": torch.arange(1, 4)}
        pairs = {"user_id": torch.full((20,), 2), "item_id": torch.arange(1, 21)}
        plain = self.build(dataset, cold_users="id").eval().full_sort_predict(users).view(3, -1)[:, 1:]
        for how, expected in wanted.items():
            model = self.build(dataset, cold_users=how).eval()
            scores = model.full_sort_predict(users).view(3, -1)[:, 1:]
            torch.testing.assert_close(scores[1], torch.from_numpy(expected).float(), atol=0, rtol=1e-6)
            torch.testing.assert_close(scores[::2], plain[::2], atol=0, rtol=0)
            torch.testing.assert_close(model.predict(pairs), scores[1], atol=0, rtol=0)

    @property
    def _is_unmeasured(self) -> bool:
        """The default estimate, for models whose memory has not been measured, may be far too high."""
        return get_model(self.name).step_memory == StepMemory()
