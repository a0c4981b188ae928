import numpy as np
import pytest
import torch

from recbole_mambarec.checkpoint import BestEpoch
from recbole_mambarec.data.graphs.neighbours import knn_graph, nearest_neighbours, unit_rows
from recbole_mambarec.errors import UserError
from recbole_mambarec.models.dgmrec_graphs import observed_graph
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import InMemoryDataset, random_dataset
from recbole_mambarec.testing.planted import write_planted

LACKING = {"image": [0, 3, 4, 9], "text": [4, 7]}


def incomplete(dims=None, lacking=None) -> InMemoryDataset:
    """Random data in which item 4 has neither image nor text."""
    full = random_dataset(dims=dims)
    features = {m: table.items.copy() for m, table in full.item_features.items()}
    for m, items in (lacking or LACKING).items():
        features[m][items] = np.nan
    return InMemoryDataset(full.users, full.items, full.n_users, full.n_items, features)


class TestDGMRec(ModelContract):
    name = "DGMRec"

    def memory_share(self, n_users: int = 1500, n_items: int = 500, batch_size: int = 64, **overrides) -> float:
        """With fewer pairs where all are in one batch: eight contrasts of a batch with itself take their time."""
        return super().memory_share(400 if batch_size > 64 else n_users, n_items, batch_size, **overrides)

    @pytest.mark.parametrize("dims", [None, {"image": 9, "text": 7, "audio": 5}])
    def test_items_get_the_features_that_they_lack_unless_they_lack_all(self, dims):
        dataset = incomplete(dims)
        model = self.build(dataset)
        before = {m: table.weight.detach().clone() for m, table in model.features.items()}
        model.pre_epoch(0)
        for m, table in model.features.items():
            changed = (table.weight != before[m]).any(dim=1).nonzero().flatten().tolist()
            assert changed == [item for item in LACKING.get(m, []) if dims or item != 4]

    def test_every_map_that_generates_is_trained(self):
        dataset = incomplete()
        model = self.build(dataset)
        sum(model.calculate_loss(self.some_batch(dataset))).backward()
        assert all(p.grad.abs().max() > 0 for p in model.generator.parameters())

    def test_a_part_is_made_of_the_modalities_that_an_item_has(self):
        """Of three modalities, item 4 has audio alone, and item 7 lacks text alone."""
        model = self.build(incomplete({"image": 9, "text": 7, "audio": 5}))
        general = {m: torch.rand(20, 8) for m in model.modalities}
        made = model.generator.make("text", general, torch.rand(20, 8))[:, :8]
        maps = model.generator.from_modality["text"]
        torch.testing.assert_close(made[4], maps["audio"](general["audio"][4]))
        torch.testing.assert_close(
            made[7], (maps["image"](general["image"][7]) + maps["audio"](general["audio"][7])) / 2
        )

    def test_without_gaps_nothing_is_generated(self):
        for lacking in ({}, {"image": [4], "text": [4]}):
            model = self.build(incomplete(lacking=lacking or {"image": []}))
            assert model.generator is None
            assert "generation" not in model.loss_parts(*torch.tensor([[1, 2], [3, 4], [5, 6]]))

    @pytest.mark.parametrize("variant", ["released", "paper"])
    def test_items_without_a_modality_are_alone_in_its_graph(self, variant):
        model = self.build(incomplete(), variant=variant)
        features, absent = model.data.features("image"), ~model.data.present("image")
        cosines = (unit_rows(features) @ unit_rows(features).T).numpy()
        np.fill_diagonal(cosines, 2)
        if variant == "paper":
            cosines[:, absent] = -2
        kept = np.zeros((20, 20), dtype=bool)
        np.put_along_axis(kept, np.argsort(-cosines, axis=1)[:, :4], True, axis=1)
        kept[absent] = kept[:, absent] = False
        kept[absent, absent] = True
        graph = observed_graph(model.data, "image", 4, stand_ins=variant == "released").scipy().toarray()
        assert np.array_equal(graph != 0, kept)
        assert (kept[~absent].sum(axis=1) == 4).all() == (variant == "paper")

    def test_every_fifth_epoch_the_links_of_incomplete_items_move_towards_new_ones(self):
        model = self.build(incomplete(), ii_refined_weight=0.25)
        before = {m: graph.graph.scipy().toarray() for m, graph in model.item_graph.items()}
        for epoch in range(4):
            model.pre_epoch(epoch)
        assert all(np.array_equal(model.item_graph[m].graph.scipy().toarray(), before[m]) for m in before)
        model.pre_epoch(4)
        for m, items in LACKING.items():
            now = model.item_graph[m].graph.scipy().toarray()
            others = np.setdiff1d(np.arange(20), items)
            assert np.array_equal(now[others], before[m][others])
            fresh = knn_graph(nearest_neighbours(model.features[m].weight, 4)).scipy().toarray()
            np.testing.assert_allclose(now[items], 0.25 * fresh[items] + 0.75 * before[m][items], atol=1e-6)

    def test_a_checkpoint_has_the_links_as_they_are(self):
        """Also one whose memory was made when there were fewer of them."""
        model, fresh = self.build(incomplete()), self.build(incomplete(), seed=1)
        best = BestEpoch.of(model, 0, 0.1, None)
        model.pre_epoch(4)
        best = BestEpoch.of(model, 1, 0.2, None, best)
        fresh.load_state_dict(best.state_dict)
        users = {"user_id": torch.arange(1, 4)}
        torch.testing.assert_close(*(m.eval().full_sort_predict(users) for m in (model, fresh)), atol=0, rtol=0)
        model.pre_epoch(9), fresh.pre_epoch(9)
        assert all(model.item_graph[m].graph.n_edges == fresh.item_graph[m].graph.n_edges for m in LACKING)

    def test_generated_features_need_tables_that_are_trained(self):
        with pytest.raises(UserError, match="set freeze_features to False, or leave the incomplete modalities out"):
            self.build(incomplete(), freeze_features=True)

    def test_it_learns_where_features_are_missing(self, tmp_path):
        folder = write_planted(tmp_path)
        for m, missing in (("image", slice(0, 12)), ("text", slice(8, 20))):
            rows = np.load(folder / f"planted.{m}.npy")
            rows[missing] = np.nan
            np.save(folder / f"planted.{m}.npy", rows)
        trainer, result, test = self.train(folder)
        assert result["recall@10"] > 0.7
        again, *_ = self.train(folder, epochs=1, seed=9, checkpoint_dir="other")
        assert dict(again.evaluate(test, model_file=trainer.saved_model_file)) == result
