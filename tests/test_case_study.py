"""Top-k lists for single users, with and without items in the split."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from recbole.utils.case_study import full_sort_scores, full_sort_topk

from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import QUICK, write_planted

HAD = {"trained": ["i0", "i4", "i9"], "validated": ["i1", "i5"]}


@pytest.fixture
def folder(tmp_path):
    """Two users without a test item, of whom one has a validation item; one without any interaction."""
    folder = write_planted(tmp_path)
    for part, pairs in {
        "train": [("trained", item) for item in HAD["trained"]] + [("validated", "i1")],
        "valid": [("validated", "i5")],
    }.items():
        with open(folder / f"{folder.name}.{part}.inter", "a", encoding="utf-8") as stream:
            stream.writelines(f"{user}\t{item}\n" for user, item in pairs)
    return folder


def prepared(folder, model, **overrides):
    settings = {"data_path": str(folder.parent), "state": "ERROR", "strict_keys": False} | QUICK | overrides
    config = Config(model, folder.name, config_dict=settings)
    init_seed(config["seed"], True)
    train, valid, test = data_preparation(config, create_dataset(config))
    return get_model(model)(config, train.dataset), valid, test


def masked(dataset, scores):
    return [set(dataset.id2token("item_id", row.isinf().nonzero()[:, 0].numpy()[1:])) for row in scores]


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF", "EASE", "MultiVAE", "MambaRec", "BM3"])
def test_the_catalogue_is_ranked_without_what_they_had(folder, model):
    model, valid, test = prepared(folder, model)
    dataset = test.dataset
    users = dataset.token2id("user_id", ["u3", "trained", "u5", "validated"])
    scores = full_sort_scores(users, model, test)
    had = masked(dataset, scores)
    assert (had[1], had[3]) == (set(HAD["trained"]), set(HAD["validated"]))
    # six in training and one in validation
    assert len(had[0]) == len(had[2]) == 7
    assert masked(dataset, full_sort_scores(users, model, valid))[3] == {"i1"}

    values, items = full_sort_topk(users, model, test, k=5)
    assert items.shape == (4, 5) and values.isfinite().all()
    assert not set(dataset.id2token("item_id", items[1].numpy())) & set(HAD["trained"])
    if model.__class__.__name__ not in ("MultiVAE",):
        for row, user in enumerate(users):
            alone = full_sort_scores([user], model, test)
            torch.testing.assert_close(alone[0], scores[row])


@pytest.mark.parametrize("model", ["BPR", "MambaRec"])
def test_validation_items_are_ranked_where_the_protocol_ranks_them(folder, model):
    model, _, test = prepared(folder, model, mask_valid_in_test=False)
    users = test.dataset.token2id("user_id", ["validated", "trained"])
    assert masked(test.dataset, full_sort_scores(users, model, test)) == [{"i1"}, set(HAD["trained"])]


@pytest.mark.parametrize("model", ["LightGCN", "FREEDOM"])
def test_an_evaluation_is_the_same_afterwards(folder, model):
    model, _, test = prepared(folder, model)
    before = [batch[1] for batch in test]
    full_sort_topk(test.dataset.token2id("user_id", ["trained"]), model, test, k=3)
    for old, new in zip(before, (batch[1] for batch in test)):
        assert torch.equal(old[0], new[0]) and torch.equal(old[1], new[1])


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda ids: np.array(ids, dtype=np.int32)])
def test_ids_come_in_any_container(folder, kind):
    model, _, test = prepared(folder, "BPR")
    user = int(test.dataset.token2id("user_id", "trained"))
    assert full_sort_topk(kind([user, 1]), model, test, k=3)[1].shape == (2, 3)


@pytest.mark.parametrize("model", ["BPR", "MambaRec"])
@pytest.mark.parametrize(
    ("users", "sentence"),
    [
        ([0], "no user with the internal id 0"),
        ([1, 63], "no user with the internal id 63: ids are from 1 to 62"),
        ([-1], "internal id -1"),
        (["trained"], "whole numbers from 1 to 62"),
        ([1.5], "whole numbers"),
        ([], "whole numbers"),
    ],
)
def test_ids_that_are_none(folder, model, users, sentence):
    model, _, test = prepared(folder, model)
    with pytest.raises(UserError, match=sentence) as caught:
        full_sort_topk(users, model, test, k=3)
    assert "\n" not in str(caught.value)


def test_a_loader_that_samples_does_not_rank_the_catalogue(folder):
    model, _, test = prepared(folder, "BPR", eval_args={"mode": "uni20"})
    with pytest.raises(UserError, match="NegSampleEvalDataLoader: evaluate with mode full"):
        full_sort_topk([1], model, test, k=3)


def test_a_sequential_model_needs_a_sequence(tmp_path):
    lines = [f"u{user}\ti{(user * 3 + step * 7) % 23}\t{step}\n" for user in range(12) for step in range(6)]
    lines.append("short\ti3\t1\nshort\ti4\t2\n")
    root = tmp_path / "sequences"
    root.mkdir()
    (root / "sequences.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines), encoding="utf-8"
    )
    settings = {
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }
    model, _, test = prepared(root, "GRU4Rec", **settings)
    assert full_sort_topk(test.dataset.token2id("user_id", ["u2", "u7"]), model, test, k=4)[1].shape == (2, 4)
    users = test.dataset.token2id("user_id", ["u2", "short"])
    with pytest.raises(UserError, match=r"user 'short' .* has no sequence in this split"):
        full_sort_topk(users, model, test, k=4)
