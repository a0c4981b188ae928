from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model

from recbole_mambarec.config import default_properties, properties_folder
from recbole_mambarec.errors import UserError
from tests.helpers import InMemoryDataset, random_dataset
from tests.models.contract import ModelContract
from tests.planted import write_planted

KEYS = default_properties("model", "CRANE")


def graph_of(model) -> np.ndarray:
    return model.item_graph.graph.scipy().toarray()


class TestCRANE(ModelContract):
    name = "CRANE"
    settings: ClassVar = {"cl_weight": 0.1}

    def gradients(self, part: str, **settings) -> dict[str, torch.Tensor | None]:
        """Gradients of RCA's parameters from one part of the loss."""
        dataset = random_dataset()
        model = self.build(dataset, **settings)
        losses = model.calculate_loss(self.some_batch(dataset))
        dict(zip(model.loss_names, losses))[part].backward()
        return {name: p.grad for name, p in model.rca.named_parameters()}

    def test_ranking_alone_trains_all_of_rca(self):
        assert all(grad.abs().max() > 0 for grad in self.gradients("bpr").values())

    def test_ranking_trains_rca_through_the_items_alone(self):
        assert all(grad.abs().max() > 0 for grad in self.gradients("bpr", user_profiles=False).values())
        assert not any(grad.any() for grad in self.gradients("bpr", user_profiles=False, ii_input="ids").values())

    def test_profiles_are_means_over_training_items(self):
        dataset = random_dataset()
        model = self.build(dataset, rca_layers=0).eval()
        projected = model._projected()
        starts = []
        model.rca.register_forward_hook(lambda _, args, __: starts.append(args[0]))
        model.embed()
        (profiles,) = [start for start in starts if len(start) == dataset.n_users]
        for user in range(dataset.n_users):
            own = np.unique(dataset.items[dataset.users == user])
            torch.testing.assert_close(profiles[user], projected[own].mean(dim=0), atol=1e-6, rtol=1e-5)

    def test_the_profile_of_a_pair_is_that_of_a_user_without_it(self):
        """The content of a row equals that of the user in data without the row's interaction, correlations aside."""
        dataset = random_dataset()
        features = {m: np.random.default_rng(1).normal(size=(dataset.n_items, 3)) for m in ("image", "text")}
        shape = dataset.n_users, dataset.n_items
        dataset = InMemoryDataset(dataset.users, dataset.items, *shape, features)
        model = self.build(dataset, rca_layers=0)
        users, items = torch.tensor(dataset.users[:5]), torch.tensor(dataset.items[:5])
        others = model._views((users, items)).others
        for row, (user, item) in enumerate(zip(users.tolist(), items.tolist())):
            kept = (dataset.users != user) | (dataset.items != item)
            smaller = InMemoryDataset(dataset.users[kept], dataset.items[kept], *shape, features)
            without = self.build(smaller, rca_layers=0)
            without.load_state_dict(model.state_dict())
            torch.testing.assert_close(others[row], without._views().profiles[user], atol=1e-5, rtol=1e-4)

    def test_scores_use_whole_profiles(self):
        dataset = random_dataset()
        first, second = (self.build(dataset, profile_leave_out=leave_out) for leave_out in (True, False))
        for ours, expected in zip(first.embed(), second.embed()):
            torch.testing.assert_close(ours, expected)

    def test_symmetric_profiles_weigh_by_degree(self):
        dataset = random_dataset()
        model = self.build(dataset, profile_norm="sym")
        degrees = np.bincount(dataset.items, minlength=dataset.n_items)
        expected = np.zeros((dataset.n_users, dataset.n_items))
        expected[dataset.users, dataset.items] = 1 / np.sqrt(4 * degrees[dataset.items])
        np.testing.assert_allclose(model.profiles.user_item.scipy().toarray(), expected, atol=1e-6)

    def test_views_equal_the_formulas(self):
        """Dense products in float64 from the model's parameters, two propagations over the item graph."""
        dataset = random_dataset()
        model = self.build(dataset, n_mm_layers=2, rca_layers=1, ii_graph="refined", unit_content=False).eval()
        s, a = graph_of(model).astype(float), model.bipartite.scipy().toarray().astype(float)
        nodes = torch.cat([model.user_embedding.weight, model.item_embedding.weight]).detach().double().numpy()
        behaviour = (nodes + a @ nodes + a @ a @ nodes) / 3
        users, items = np.split(behaviour, [dataset.n_users])
        projected = model._projected()
        profiles = torch.tensor(model.profiles.user_item.scipy() @ projected.detach().numpy())
        h_users = model.rca(profiles)[1].detach().numpy()
        h_items = s @ s @ (items + model.rca(projected)[1].detach().numpy())
        for ours, expected in zip(model.embed(), (users + h_users, items + h_items)):
            np.testing.assert_allclose(ours.detach(), expected, atol=1e-5)

    def test_the_token_scope_learns_too(self, tmp_path):
        _, result, _ = self.train(write_planted(tmp_path), rca_scope="token")
        assert result["recall@10"] > 0.6

    def test_unit_content_has_length_one_where_it_meets_the_ids(self):
        model = self.build(n_mm_layers=0)
        views = model._views()
        for content in (views.profiles, views.spread):
            torch.testing.assert_close(content.norm(dim=1), torch.ones(len(content)))

    @pytest.mark.parametrize(
        "change",
        [
            {"rca_layers": 0},
            {"rca_layers": 1},
            {"rca_residual": "input"},
            {"rca_share_steps": False},
            {"rca_scope": "token"},
            {"profile_norm": "sym"},
            {"user_profiles": False},
            {"unit_content": False},
            {"profile_leave_out": False},
            {"ii_graph": "raw"},
            {"ii_graph": "refined"},
            {"ii_refined_weight": 0.5},
            {"mm_image_weight": 0.5},
            {"ii_input": "ids"},
            {"ii_input": "refined"},
            {"knn_k": 3},
            {"n_mm_layers": 2},
            {"n_ui_layers": 1},
            {"cl_weight": 0.1},
            {"temperature": 0.1},
            {"reg_weight": 1.0},
        ],
        ids=str,
    )
    def test_every_choice_matters(self, change):
        dataset = random_dataset()
        first, second = (
            sum(self.build(dataset, **settings).calculate_loss(self.some_batch(dataset))).item()
            for settings in ({}, change)
        )
        assert first != second

    def test_the_contrast_counts_a_node_once(self):
        """A batch that repeats its pairs has the contrast of the batch that does not."""
        dataset = random_dataset()
        model = self.build(dataset)
        once = {name: nodes[:4] for name, nodes in self.some_batch(dataset).items()}
        twice = {name: nodes.repeat(2) for name, nodes in once.items()}
        values = [dict(zip(("bpr", "reg", "contrastive"), model.calculate_loss(rows))) for rows in (once, twice)]
        torch.testing.assert_close(values[0]["contrastive"], values[1]["contrastive"])

    def test_every_epoch_searches_the_neighbours_anew(self):
        dataset = random_dataset()
        model = self.build(dataset, knn_k=4)
        first = graph_of(model)
        model.pre_epoch(0)
        assert np.array_equal(first, graph_of(model))
        with torch.no_grad():
            model.projection["text"].weight.normal_()
        assert np.array_equal(first, graph_of(model))
        model.pre_epoch(1)
        assert not np.array_equal(first, graph_of(model))
        found = model.item_graph.indices.numpy()
        assert found.shape == (dataset.n_items, 4)
        for item, row in enumerate(found):
            assert len(set(row)) == 4 and item not in row and row.min() >= 0 and row.max() < dataset.n_items

    def test_a_checkpoint_brings_its_graph(self, tmp_path):
        """The weights of a checkpoint with the graph of another moment give other scores."""
        folder = write_planted(tmp_path)
        settings = {"ii_graph": "refined", "epochs": 3, "learning_rate": 0.05}
        trainer, result, test = self.train(folder, **settings)
        _, again, *_ = load_data_and_model(str(trainer.saved_model_file))
        saved = torch.load(trainer.saved_model_file, weights_only=True)["state_dict"]
        trainer.model.load_state_dict(saved)
        users = {"user_id": torch.arange(1, 20)}
        expected = trainer.model.eval().full_sort_predict(users)
        assert torch.equal(again.eval().full_sort_predict(users), expected)
        again._refresh()
        again.train().eval()
        assert not torch.equal(again.full_sort_predict(users), expected)
        assert dict(trainer.evaluate(test)) == result

    def test_a_resumed_run_ends_like_one_that_was_not_interrupted(self, tmp_path):
        folder = write_planted(tmp_path)
        _, whole, _ = self.train(folder, epochs=4, prune_rate=0.3)
        part, *_ = self.train(folder, epochs=2, prune_rate=0.3, checkpoint_dir="part", eval_step=1)
        kept = Path("kept.pth")
        part._save_checkpoint(1, saved_model_file=str(kept))
        _, resumed, _ = self.train(folder, epochs=4, prune_rate=0.3, checkpoint_dir="rest", resume_from=str(kept))
        assert resumed == whole

    def test_memory_of_a_refresh_is_bounded_by_its_blocks(self, monkeypatch):
        monkeypatch.setattr("recbole_mambarec.data.graphs._BLOCK_VALUES", 1 << 17)
        n_items = 2500
        model = self.build(random_dataset(n_users=40, n_items=n_items, dims={"image": 4, "text": 4}))
        with torch.profiler.profile(profile_memory=True) as profile:
            model.pre_epoch(0)
        assert max(event.cpu_memory_usage for event in profile.events()) < n_items * n_items * 4 / 8

    def test_items_nobody_has_and_users_without_items_are_finite(self):
        features = {"text": np.random.default_rng(0).normal(size=(6, 3))}
        dataset = InMemoryDataset([0, 0, 1], [0, 1, 1], 3, 6, features)
        model = self.build(dataset, knn_k=2)
        assert all(torch.isfinite(x).all() for x in model.embed())

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            ({"rca_residual": "none"}, "rca_residual 'none' is unknown"),
            ({"rca_scope": "node"}, "rca_scope 'node' is unknown"),
            ({"profile_norm": "max"}, "profile_norm 'max' is unknown: use one of mean, sym"),
            ({"ii_graph": "both"}, "ii_graph 'both' is unknown"),
            ({"ii_input": "none"}, "ii_input 'none' is unknown: use one of both, ids, refined"),
            ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
            ({"prune_rate": 1.0}, "prune_rate must be at least 0 and below 1"),
        ],
    )
    def test_unknown_values_are_refused(self, overrides, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**overrides)


def test_the_tuning_space_is_of_known_keys_and_holds_the_defaults():
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    file = properties_folder() / "tuning" / "CRANE.hyper"
    space = HyperTuning(lambda *_: None, params_file=str(file), algo="random").space
    lines = [line.split(" ", 2) for line in file.read_text().splitlines()]
    assert {name for name, *_ in lines} == set(space) <= set(KEYS)
    for name, kind, choices in lines:
        assert kind == "choice" and KEYS[name] in eval(choices)
