from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, batch, model_config, random_dataset
from tests.models.test_itemfeatureknn import ALL_USERS, history_of


def zscores(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, correction=0, keepdim=True)


def contents_of(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Items of the profile view and what they say, ``(I, w)`` each, by the formulas."""
    view = model.profile
    parts = [F.normalize(view.projection[m](view.features[m]()), dim=1) for m in model.modalities]
    start = torch.cat([*parts, view.item_embedding.weight], dim=1)
    graph = torch.tensor(model.item_graph.scipy().toarray())
    items = start + graph @ start
    return items, items @ view.statement.weight.T


class TestThreeViews(ModelContract):
    name = "ThreeViews"
    # a few dozen items
    settings: ClassVar = {"reg_weight": 5.0}
    sizes: ClassVar = {"reg_weight": 5.0}
    rounding = 1e-5

    def test_cold_scale_lengthens_what_new_items_are_ranked_by(self):
        """In each view by itself, before it is standardised."""
        dataset = random_dataset()
        kept = dataset.items != 3
        dataset.users, dataset.items = dataset.users[kept], dataset.items[kept]
        plain, scaled = (self.build(dataset, cold_scale=scale).eval() for scale in (0.0, 1.5))
        others = torch.arange(20) != 3
        for view, (users, items) in scaled.trained_views().items():
            before, after = plain.trained_views()[view][1][1:], items[1:]
            torch.testing.assert_close(users, plain.trained_views()[view][0])
            torch.testing.assert_close(after[others], before[others])
            length = 1.5 * after[others].square().sum(dim=1).mean().sqrt()
            torch.testing.assert_close(after[3], before[3] * length / before[3].norm())
        users = {"user_id": torch.arange(1, 4)}
        scores = [model.full_sort_predict(users).view(3, -1)[:, 1:] for model in (plain, scaled)]
        ranks = [(found[:, 3:4] < found).sum(dim=1) for found in scores]
        assert (ranks[0] != ranks[1]).any()

    def test_scores_are_the_weighted_sum_of_standardised_views(self):
        dataset = random_dataset()
        given = {"graph_weight": 0.7, "profile_weight": 1.3, "linear_weight": 0.4}
        model = self.build(dataset, **given).eval()
        history = torch.tensor(history_of(dataset)).float()
        users, items = model.graph_view()
        contents, said = contents_of(model)
        profiles = history @ said / history.sum(dim=1, keepdim=True)
        views = {
            "graph_weight": users @ items.T,
            "profile_weight": F.normalize(profiles, dim=1) @ F.normalize(contents, dim=1).T,
            "linear_weight": self.linear_scores(dataset),
        }
        expected = sum(given[key] * zscores(scores) for key, scores in views.items())
        found = model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)

    def linear_scores(self, dataset: InMemoryDataset) -> torch.Tensor:
        from recbole.utils import get_model

        own = model_config(self.name, reg_weight=5.0, n_neighbors=4)
        keys = ("form", "reg_weight", "user_discount", "item_discount", "feature_weight", "feature_reg", "n_neighbors")
        settings = {key: own[key] for key in (*keys, "neighbour_weight", "spread_weight", "feature_width")}
        model = get_model("MultiEASE")(model_config("MultiEASE", **settings), dataset)
        return model.full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]

    @pytest.mark.parametrize(("left_out", "part"), [("profile_weight", "profile"), ("linear_weight", "linear")])
    def test_a_view_without_weight_is_left_out(self, left_out, part):
        dataset = random_dataset()
        model = self.build(dataset, **{left_out: 0.0})
        rows = self.some_batch(dataset)
        trained = dict(model.losses_before_step(*model.nodes_of(rows)))
        assert (trained.keys(), model.trained_apart().keys()) == (
            (set(), set()) if part == "profile" else ({"profile"}, {"profile"})
        )
        assert len(model.linear) == (0 if part == "linear" else 1)
        assert torch.isfinite(model.eval().full_sort_predict(ALL_USERS).view(30, 21)[:, 1:]).all()

    def test_the_profile_learns_by_softmax_and_does_not_see_the_item_of_the_pair(self):
        """All items are sampled; user 29 has a single item and does not enter."""
        dataset = random_dataset()
        kept = (dataset.users != 29) | (np.cumsum(dataset.users == 29) == 1)
        dataset = InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features_of(dataset))
        model = self.build(dataset, n_negatives=1000, softmax_temperature=0.3)
        rows = np.append(np.arange(0, len(dataset.users), 7), np.flatnonzero(dataset.users == 29))
        users, items = dataset.users[rows], dataset.items[rows]
        contents, said = contents_of(model)
        unit, history = F.normalize(contents, dim=1), history_of(dataset)
        losses = []
        for user, item in zip(users, items):
            rest = [i for i in np.flatnonzero(history[user]) if i != item]
            if rest:
                cosines = F.normalize(said[rest].mean(dim=0), dim=0) @ unit.T / 0.3
                candidates = [item, *np.flatnonzero(history[user] == 0)]
                losses.append(torch.logsumexp(cosines[candidates], dim=0) - cosines[item])
        found = model.losses_before_step(*model.nodes_of(batch(users, items, items)))
        (name, loss) = next(found)
        assert name == "profile" and len(losses) == len(users) - 1
        torch.testing.assert_close(loss, torch.stack(losses).sum() / len(users), atol=1e-5, rtol=1e-4)

    def test_the_profile_stops_learning_after_its_steps(self):
        """Twelve steps are three epochs of four batches."""
        dataset = random_dataset()
        batch_size = -(-len(dataset.users) // 4)
        model = self.build(dataset, profile_steps=12, train_batch_size=batch_size)
        rate = model.trained_apart()["profile"].schedule
        assert [round(rate(epoch), 3) for epoch in range(5)] == [1.0, 0.75, 0.25, 0.0, 0.0]
        for epoch, learns in ((0, True), (2, True), (3, False)):
            model.pre_epoch(epoch)
            losses = model.losses_before_step(*model.nodes_of(self.some_batch(dataset)))
            assert [name for name, _ in losses] == ["profile"] * learns

    def test_an_item_that_nobody_has_bought_is_no_negative(self):
        dataset = random_dataset()
        kept = dataset.items != 19
        model = self.build(InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features_of(dataset)))
        np.testing.assert_array_equal(model.known_items, np.arange(19))
        assert model.n_negatives == 19

    def test_both_trained_views_have_features_of_their_own(self):
        parameters = dict(self.build().named_parameters())
        for modality in ("image", "text"):
            own, other = (parameters[f"{place}.{modality}.weight"] for place in ("features", "profile.features"))
            assert own is not other and torch.equal(own, other)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"graph_weight": 0.0}, "graph_weight must be above 0"),
            ({"linear_weight": -1.0}, "profile_weight and linear_weight numbers from 0, got 1.0, 1.0, -1.0"),
            ({"softmax_temperature": 0.0}, "softmax_temperature must be positive, got 0.0"),
            ({"profile_steps": 0}, "profile_steps must be positive, got 0"),
            ({"n_negatives": 0}, "n_negatives must be positive, got 0"),
            ({"dense_items": 19}, r"ThreeViews on 20 items would hold 2.2 matrices.*set solver=sparse"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings, sentence):
        with pytest.raises(UserError, match=sentence):
            self.build(**settings)


def features_of(dataset: InMemoryDataset) -> dict[str, np.ndarray]:
    return {name: np.array(known.items[:]) for name, known in dataset.item_features.items()}
