from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recbole.quick_start import load_data_and_model

from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, random_dataset
from recbole_mambarec.testing.planted import write_planted

KEYS = default_properties("model", "CRANE")


def graph_of(model) -> np.ndarray:
    return model.item_graph.graph.scipy().toarray()


def refined_rows(weights, settings, nodes, rows):
    """RCA of ``rows`` with the correlations of ``nodes``, and the joint map: the formulas of section 3 one by one."""
    start, width = [nodes, rows], settings["embedding_size"]
    states = start
    for step in range(settings["rca_layers"]):
        name = f"rca.steps.{0 if settings['rca_share_steps'] else step}"
        w_j, b_j = weights[f"{name}.joint.weight"], weights[f"{name}.joint.bias"]
        joints = [x @ w_j.T + b_j for x in states]
        added: list[list[torch.Tensor]] = [[], []]
        for m, x in enumerate(states[0].split(width, dim=1)):
            found = torch.corrcoef(torch.cat([x, joints[0]], dim=1).T)[:width, width:]
            c = torch.tanh(width**0.5 * found @ weights[f"{name}.correlated"][m])
            for side, (state, joint) in enumerate(zip(states, joints)):
                own = state.split(width, dim=1)[m] @ weights[f"{name}.own"][m]
                crossed = joint @ c.T @ weights[f"{name}.crossed"][m] / width**0.5
                added[side].append(torch.relu(own + crossed) @ weights[f"{name}.output"][m])
        onto = states if settings["rca_residual"] == "previous" else start
        states = [x + torch.cat(update, dim=1) for x, update in zip(onto, added)]
    content = states[1] @ weights["rca.joint.weight"].T + weights["rca.joint.bias"]
    return content / content.norm(dim=1, keepdim=True).clamp(min=1e-12) if settings["unit_content"] else content


def losses_by_the_formulas(model, weights, settings, dataset, users, positives, negatives):
    """BPR, L2 and contrast of a batch in float64, all graphs but the item graph built here."""
    known = torch.zeros(dataset.n_users, dataset.n_items, dtype=torch.float64)
    known[dataset.users, dataset.items] = 1
    scale_u, scale_i = known.sum(dim=1).rsqrt(), known.sum(dim=0).clamp(min=1).rsqrt()
    a = scale_u[:, None] * known * scale_i
    layers = [(weights["user_embedding.weight"], weights["item_embedding.weight"])]
    for _ in range(settings["n_ui_layers"]):
        layers.append((a @ layers[-1][1], a.T @ layers[-1][0]))
    e_u, e_i = (torch.stack(side).mean(dim=0) for side in zip(*layers))
    features = [torch.as_tensor(dataset.item_features[m].matrix[1:]).double() for m in model.modalities]
    names = [f"projection.{m}" for m in model.modalities]
    x = torch.cat([f @ weights[f"{n}.weight"].T + weights[f"{n}.bias"] for f, n in zip(features, names)], dim=1)
    content = refined_rows(weights, settings, x, x)
    s = torch.tensor(graph_of(model), dtype=torch.float64)
    spread, h_i = content, {"both": e_i + content, "ids": e_i, "refined": content}[settings["ii_input"]]
    for _ in range(settings["n_mm_layers"]):
        spread, h_i = s @ spread, s @ h_i

    def profile(rows, profile_users):
        if settings["profile_norm"] == "mean":
            return rows / rows.sum(dim=1, keepdim=True).clamp(min=1) @ x
        return rows * scale_u[profile_users, None] * scale_i @ x

    others = known[users].clone()
    others[torch.arange(len(users)), positives] = 0
    profiles = profile(known, torch.arange(dataset.n_users))
    h_u = ranked = refined_rows(weights, settings, profiles, profiles[users])
    if settings["profile_leave_out"]:
        ranked = refined_rows(weights, settings, profiles, profile(others, users))
        ranked = torch.where(others.any(dim=1)[:, None], ranked, 0)
    z_u, z_i = e_u[users], e_i + h_i
    if settings["user_profiles"]:
        z_u = z_u + ranked

    def nce(of, to, nodes):
        once = torch.tensor([nodes.tolist().index(node) for node in sorted(set(nodes.tolist()))])
        logits = F.normalize(of[once], dim=1) @ F.normalize(to[once], dim=1).T / settings["temperature"]
        return F.cross_entropy(logits, torch.arange(len(once)))

    contrast = nce(e_i[positives], spread[positives], positives)
    if settings["user_profiles"]:
        contrast = contrast + nce(e_u[users], h_u, users)
    ids = layers[0][0][users], layers[0][1][positives], layers[0][1][negatives]
    return (
        -F.logsigmoid((z_u * (z_i[positives] - z_i[negatives])).sum(dim=1)).mean(),
        settings["reg_weight"] * sum(rows.square().sum() for rows in ids) / 2 / model.batch_size,
        settings["cl_weight"] * contrast,
    )


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
        content = model._views((users, items)).target_profiles
        for row, (user, item) in enumerate(zip(users.tolist(), items.tolist())):
            kept = (dataset.users != user) | (dataset.items != item)
            smaller = InMemoryDataset(dataset.users[kept], dataset.items[kept], *shape, features)
            without = self.build(smaller, rca_layers=0)
            without.load_state_dict(model.state_dict())
            torch.testing.assert_close(content[row], without._views().profiles[user], atol=1e-5, rtol=1e-4)

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
        model._refresh()
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
            {"n_neighbors": 3},
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
        model = self.build(dataset, n_neighbors=4)
        model.pre_epoch(0)
        first = graph_of(model)
        with torch.no_grad():
            model.projection["text"].weight.normal_()
        assert np.array_equal(first, graph_of(model))
        model.pre_epoch(1)
        assert not np.array_equal(first, graph_of(model))
        found = model.item_graph.indices.numpy()
        assert found.shape == (dataset.n_items, 4)
        for item, row in enumerate(found):
            assert len(set(row)) == 4 and item not in row and row.min() >= 0 and row.max() < dataset.n_items

    @pytest.mark.parametrize(("every", "searched"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (0, [])])
    def test_the_graph_is_searched_at_the_configured_interval(self, every, searched, monkeypatch):
        model, epochs = self.build(ii_refresh=every), []
        refresh = model.item_graph.refresh
        monkeypatch.setattr(model.item_graph, "refresh", lambda learnt: (epochs.append(epoch), refresh(learnt)))
        for epoch in range(5):
            model.pre_epoch(epoch)
        assert epochs == searched
        model._views()
        # with 0, the first pass has found the one that stays
        assert model.item_graph.found and len(epochs) == len(searched) + (every == 0)

    def test_users_without_items_do_not_count(self):
        """Two users more whom no interaction knows: the others' content and its statistics stay as they are."""
        dataset = random_dataset()
        features = {m: f.matrix[1:] for m, f in dataset.item_features.items()}
        shape = dataset.users, dataset.items, dataset.n_users + 2, dataset.n_items
        few, many = self.build(dataset).eval(), self.build(InMemoryDataset(*shape, features)).eval()
        assert few.profiles.active_users is None and len(many.profiles.active_users) == dataset.n_users
        state = few.state_dict()
        state["user_embedding.weight"] = torch.cat([state["user_embedding.weight"], torch.zeros(2, 8)])
        few._refresh()
        many.load_state_dict(state | {name: few.state_dict()[name] for name in state if "item_graph" in name})
        profiles = many._views().profiles
        torch.testing.assert_close(profiles[: dataset.n_users], few._views().profiles)
        assert not profiles[dataset.n_users :].any()

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"profile_leave_out": False},
            {"user_profiles": False},
            {"profile_norm": "sym", "rca_residual": "input", "rca_share_steps": False},
            {"ii_input": "ids", "n_mm_layers": 2, "unit_content": False},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("one_item", [False, True])
    def test_losses_and_gradients_equal_the_formulas(self, settings, one_item):
        """Each term and the gradient of the sum, against dense products in float64 with the item graph of the model.

        Of users with one item, no profile is left for its pair, and the gradient of the scaled content would be
        infinite.
        """
        dataset = random_dataset()
        if one_item:
            kept = (dataset.users >= 10) | (np.arange(len(dataset.users)) % 4 == 0)
            features = {m: f.matrix[1:] for m, f in dataset.item_features.items()}
            pairs = dataset.users[kept], dataset.items[kept]
            dataset = InMemoryDataset(*pairs, dataset.n_users, dataset.n_items, features)
        settings = KEYS | {"embedding_size": 8, "cl_weight": 0.3, "reg_weight": 0.1, "temperature": 0.5} | settings
        model = self.build(dataset, **settings)
        rows = self.some_batch(dataset, 24)
        parts = model.calculate_loss(rows)
        sum(parts).backward()
        weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
        expected = losses_by_the_formulas(model, weights, settings, dataset, *(x - 1 for x in rows.values()))
        sum(expected).backward()
        for ours, wanted in zip(parts, expected):
            assert ours.item() == pytest.approx(float(wanted.detach()), rel=1e-5)
        for name, p in model.named_parameters():
            wanted = weights[name].grad
            if wanted is None:
                assert p.grad is None or not p.grad.any()
            else:
                torch.testing.assert_close(p.grad.double(), wanted, atol=1e-6, rtol=1e-3, msg=name)

    def test_a_checkpoint_brings_its_graph(self, tmp_path):
        """The weights of a checkpoint with the graph of another moment give other scores."""
        folder = write_planted(tmp_path)
        settings = {"ii_graph": "refined", "epochs": 3, "learning_rate": 0.05}
        trainer, result, test = self.train(folder, **settings)
        _, again, _, _, valid, _ = load_data_and_model(str(trainer.saved_model_file))
        # what the graph of the moment gave in training
        assert dict(trainer.evaluate(valid)) == dict(trainer.best_valid_result)
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
        monkeypatch.setattr("recbole_mambarec.data.graphs.neighbours._BLOCK_VALUES", 1 << 17)
        n_items = 2500
        model = self.build(random_dataset(n_users=40, n_items=n_items, dims={"image": 4, "text": 4}))
        with torch.profiler.profile(profile_memory=True) as profile:
            model.pre_epoch(0)
        assert max(event.cpu_memory_usage for event in profile.events()) < n_items * n_items * 4 / 8

    @pytest.mark.parametrize(
        "settings", [{"rca_layers": 4}, {"rca_scope": "token"}, {"rca_scope": "token", "rca_layers": 4}]
    )
    def test_the_memory_estimate_follows_the_steps(self, settings):
        assert 0.75 < self.memory_share(**settings) < 1.35

    def test_items_and_users_without_interactions_give_finite_embeddings(self):
        features = {"text": np.random.default_rng(0).normal(size=(6, 3))}
        dataset = InMemoryDataset([0, 0, 1], [0, 1, 1], 3, 6, features)
        model = self.build(dataset, n_neighbors=2, prune_rate=0.5)
        assert all(torch.isfinite(x).all() for x in model.embed())

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            ({"rca_residual": "none"}, "rca_residual 'none' is unknown"),
            ({"rca_scope": "node"}, "rca_scope 'node' is unknown"),
            ({"profile_norm": "max"}, "profile_norm 'max' is unknown: use one of mean, sym"),
            ({"profile_norm": "max", "user_profiles": False}, "profile_norm 'max' is unknown: use one of mean, sym"),
            ({"ii_graph": "both"}, "ii_graph 'both' is unknown"),
            ({"ii_input": "none"}, "ii_input 'none' is unknown: use one of both, ids, refined"),
            ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
            ({"prune_rate": 1.0}, "prune_rate must be at least 0 and below 1"),
        ],
    )
    def test_unknown_values_are_refused(self, overrides, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**overrides)

    def test_the_released_code_learns_too(self, tmp_path):
        _, result, _ = self.train(write_planted(tmp_path), preset="released")
        assert result["recall@10"] > 0.6

    def test_the_released_attention_compares_all_items_in_linear_memory(self):
        n_items = 4000
        model = self.build(random_dataset(n_users=20, n_items=n_items, dims={"image": 4}), variant="released")
        with torch.profiler.profile(profile_memory=True) as profile:
            sum(model.calculate_loss(self.some_batch(random_dataset(n_users=20, n_items=n_items)))).backward()
        assert max(event.cpu_memory_usage for event in profile.events()) < n_items * n_items * 4 / 8

    def test_the_released_memory_estimate(self):
        assert 0.75 < self.memory_share(variant="released") < 1.35

    def test_the_released_attention_has_four_heads(self):
        with pytest.raises(UserError, match="embedding_size must be a multiple of the 4 heads of the attention, got 6"):
            self.build(variant="released", embedding_size=6)
