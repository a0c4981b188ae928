"""The loaders of this package against RecBole's own."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.utils import init_seed

from recbole_mambarec.data.loading import PairLoader, RankingLoader
from recbole_mambarec.testing.planted import QUICK, write_planted


def prepare(tmp_path, model="VBPR", **overrides):
    folder = write_planted(tmp_path)
    config = Config(model, folder.name, config_dict=QUICK | {"data_path": str(tmp_path)} | overrides)
    return config, data_preparation(config, create_dataset(config))


def assert_same_batches(loaders):
    """Two passes over each loader, from the same seed, give the same batches."""
    passes = []
    for loader in loaders:
        init_seed(3, True)
        passes.append([batch.interaction for _ in range(2) for batch in loader])
    assert len(passes[0]) == len(passes[1]) == 2 * len(loaders[0])
    for ours, theirs in zip(*passes):
        assert ours.keys() == theirs.keys()
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, atol=0, rtol=0)


@pytest.mark.parametrize(
    "sampling",
    [
        {"distribution": "uniform", "sample_num": 1},
        {"distribution": "uniform", "sample_num": 3},
        {"distribution": "popularity", "sample_num": 1},
    ],
)
def test_pairs_and_negatives_are_the_same_as_with_recboles_loader(tmp_path, sampling):
    config, (train, *_) = prepare(tmp_path, train_neg_sample_args=sampling, train_batch_size=50)
    assert type(train) is PairLoader
    assert_same_batches([train, TrainDataLoader(config, train._dataset, train._sampler, shuffle=True)])


def test_a_model_that_learns_without_negatives(tmp_path):
    config, (train, *_) = prepare(tmp_path, "BM3")
    assert_same_batches([train, TrainDataLoader(config, train._dataset, train._sampler, shuffle=True)])


def test_columns_besides_the_ids_are_kept(tmp_path):
    """RecBole looks up an item's columns for positives and negatives."""
    folder = write_planted(tmp_path)
    item_file = folder / "planted.item"
    header, *items = item_file.read_text().splitlines()
    item_file.write_text("\n".join([f"{header}\tprice:float", *(f"{item}\t{item[1:]}" for item in items)]) + "\n")
    load = {"inter": ["user_id", "item_id"], "item": ["item_id", "price"]}
    values = QUICK | {"data_path": str(tmp_path), "load_col": load, "normalize_all": False}
    config = Config("VBPR", "planted", config_dict=values)
    train, *_ = data_preparation(config, create_dataset(config))
    assert_same_batches([train, TrainDataLoader(config, train._dataset, train._sampler, shuffle=True)])
    assert "neg_price" in next(iter(train)).columns


def test_no_negative_has_an_interaction_with_its_user(tmp_path):
    _, (train, *_) = prepare(tmp_path)
    users = np.repeat(np.arange(1, 61), 200)
    drawn = train.draw_negatives(users)
    known = train._sampler.used_ids
    assert not any(item in known[user] for user, item in zip(users, drawn))
    assert drawn.min() >= 1 and len(np.unique(drawn)) == 48


def test_ranked_users_are_the_same_as_with_recboles_loader(tmp_path):
    config, (_, valid, test) = prepare(tmp_path, eval_batch_size=49 * 7)
    for data in (valid, test):
        assert type(data) is RankingLoader
        plain = FullSortEvalDataLoader(config, data._dataset, data._sampler)
        for ours, theirs in zip(data, plain, strict=True):
            torch.testing.assert_close(ours[0]["user_id"], theirs[0]["user_id"])
            for a, b in zip((*ours[1], *ours[2:]), (*theirs[1], *theirs[2:]), strict=True):
                torch.testing.assert_close(a, b)


def test_items_of_users_are_indexed_as_in_recboles_loader(tmp_path):
    """As ``recbole.utils.case_study`` and users' own code do: by an id, by ids, by tensors."""
    config, (_, _, test) = prepare(tmp_path)
    plain = FullSortEvalDataLoader(config, test._dataset, test._sampler)
    for name in ("uid2history_item", "uid2positive_item"):
        ours, theirs = getattr(test, name), getattr(plain, name)
        assert len(ours) == len(theirs) and ours[0] is theirs[0] is None
        torch.testing.assert_close(ours[7], theirs[7])
        torch.testing.assert_close(ours[torch.tensor(7)], theirs[7])
        for many in ([3, 1, 2], np.array([3, 1, 2]), list(torch.tensor([3, 1, 2]))):
            torch.testing.assert_close(list(ours[many]), list(theirs[[3, 1, 2]]))


def test_recboles_own_models_keep_their_loaders(tmp_path):
    _, (train, valid, _) = prepare(tmp_path, "BPR")
    assert type(train) is TrainDataLoader and type(valid) is FullSortEvalDataLoader
