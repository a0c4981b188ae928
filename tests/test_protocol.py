"""Which items are ranked at test."""

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_mambarec.testing.planted import write_planted


def history(folder, model, part, **overrides):
    """Items taken out of the ranking per user, by token."""
    values = {"data_path": str(folder.parent), "show_progress": False} | overrides
    config = Config(model, folder.name, config_dict=values)
    dataset = create_dataset(config)
    data = data_preparation(config, dataset)[part]
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    return {
        users[uid]: {items[i] for i in data.uid2history_item[uid]} for uid in torch.as_tensor(data.uid_list).tolist()
    }


def interactions(folder, part):
    by_user = {}
    for line in (folder / f"planted.{part}.inter").read_text().splitlines()[1:]:
        user, item = line.split("\t")
        by_user.setdefault(user, set()).add(item)
    return by_user


@pytest.mark.parametrize("model", ["MambaRec", "BPR"])
def test_validation_items_are_ranked_at_test_on_request_only(tmp_path, model):
    folder = write_planted(tmp_path)
    train, valid = interactions(folder, "train"), interactions(folder, "valid")
    both = {user: train[user] | valid[user] for user in train}
    assert history(folder, model, 2) == both
    assert history(folder, model, 2, mask_valid_in_test=True) == both
    assert history(folder, model, 2, mask_valid_in_test=False) == train
    for mask in (True, False):
        assert history(folder, model, 1, mask_valid_in_test=mask) == train


@pytest.mark.parametrize("skip", [False, True])
def test_held_out_items_can_be_negatives_unless_the_published_leak_is_asked_for(tmp_path, skip):
    folder = write_planted(tmp_path)
    values = {"data_path": str(folder.parent), "show_progress": False, "negatives_skip_held_out": skip}
    config = Config("REARM", folder.name, config_dict=values)
    dataset = create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    parts = [interactions(folder, part) for part in (("train", "valid", "test") if skip else ("train",))]
    items = dataset.field2id_token["item_id"]
    for uid, user in enumerate(dataset.field2id_token["user_id"][1:], start=1):
        assert {items[i] for i in train._sampler.used_ids[uid]} == set.union(*(part.get(user, set()) for part in parts))
    assert history(folder, "REARM", 1, negatives_skip_held_out=skip) == interactions(folder, "train")
