"""Items that training does not know: which they are, what training sees, what is ranked, and how they are scored."""

import datetime
import logging

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mambarec.data.imputation import nearest_by_features
from recbole_mambarec.data.new_items import items_without_training, read_items
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.models.cold import ColdScale, choices
from recbole_mambarec.testing.data import InMemoryDataset, model_config, random_dataset
from recbole_mambarec.testing.planted import QUICK, write_planted


def loaders(folder, model="VBPR", **overrides):
    config = Config(model, folder.name, config_dict=QUICK | {"data_path": str(folder.parent)} | overrides)
    init_seed(config["seed"], True)
    return data_preparation(config, create_dataset(config))


def pairs(loader):
    """(user, item) tokens of the interactions of a loader."""
    dataset = loader._dataset
    fields = (dataset.uid_field, dataset.iid_field)
    return set(zip(*(dataset.id2token(field, dataset.inter_feat[field].numpy()).tolist() for field in fields)))


def new_tokens(loader):
    return set(loader._dataset.id2token("item_id", np.flatnonzero(items_without_training(loader._dataset))).tolist())


@pytest.mark.parametrize("model", ["VBPR", "BPR"])
def test_a_share_is_left_out_of_training_alone(tmp_path, model):
    folder = write_planted(tmp_path)
    before, after = loaders(folder, model), loaders(folder, model, new_items=0.25)
    assert items_without_training(before[0]._dataset) is None
    new = new_tokens(after[0])
    assert len(new) == 12 and after[0]._dataset.item_num == before[0]._dataset.item_num
    assert pairs(after[0]) == {(user, item) for user, item in pairs(before[0]) if item not in new}
    assert [pairs(loader) for loader in after[1:]] == [pairs(loader) for loader in before[1:]]
    # a fifth of the less popular items and a fifth of the others
    counts = np.bincount(before[0]._dataset.inter_feat["item_id"].numpy(), minlength=49)[1:]
    popular = np.argsort(-counts, kind="stable")[:14]
    assert round(0.25 * 14) == sum(token in new for token in before[0]._dataset.id2token("item_id", popular + 1))
    assert new != new_tokens(loaders(folder, model, new_items={"share": 0.25, "seed": 1})[0])


@pytest.mark.parametrize("model", ["VBPR", "BPR"])
def test_training_never_draws_them_as_negatives(tmp_path, model):
    train, *_ = loaders(write_planted(tmp_path), model, new_items=0.4)
    new = items_without_training(train._dataset)
    drawn = np.concatenate([batch["neg_item_id"].numpy() for batch in train])
    assert not new[drawn].any() and not (drawn == 0).any()
    assert len(np.unique(drawn)) == (~new).sum() - 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("new.txt", "i3\ni5\n"), ("new.csv", "item_id,title\ni3,x\ni5,y\n"), ("new.item", "item_id:token\ni3\ni5")],
)
def test_lists(tmp_path, name, text):
    folder = write_planted(tmp_path)
    (folder / name).write_text(text)
    assert new_tokens(loaders(folder, new_items=name)[0]) == {"i3", "i5"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x,y\n", {"x,y"}),
        ('"x,y"\r\n x\r\n', {"x,y", "x"}),
        ("item_id\ttitle\nx,y\ta, b\n", {"x,y"}),
        ('item_id,title\n"x,y",a\nx,"b, c"\n\n', {"x,y", "x"}),
    ],
)
def test_ids_may_contain_commas(tmp_path, text, found):
    (tmp_path / "new.txt").write_text(text)
    assert read_items(tmp_path / "new.txt", ["x", "x,y", "z"], numbered=False) == found


def write_timed(root):
    """Twelve items; item n is first seen on day n of May 2014, and everybody has most of them in time."""
    folder = root / "timed"
    folder.mkdir()
    start = int(datetime.datetime(2014, 5, 1, tzinfo=datetime.timezone.utc).timestamp())
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{u}\t{i}\t{start + i * 86400 + u}" for u in range(12) for i in range(12) if (u + i) % 4]
    (folder / "timed.inter").write_text("\n".join(lines) + "\n")
    (folder / "timed.item").write_text("item_id:token\n" + "\n".join(map(str, range(12))) + "\n")
    np.save(folder / "timed.image.npy", np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    return folder


def test_items_first_seen_since_a_date(tmp_path):
    folder, small = write_timed(tmp_path), {"topk": [2], "valid_metric": "Recall@2"}
    train, *_ = loaders(folder, new_items={"since": "2014-05-10"}, **small)
    assert new_tokens(train) == {"9", "10", "11"}
    same = [
        resolve("VBPR", "timed", overrides=small | {"data_path": str(tmp_path), "new_items": {"since": since}}).key
        for since in ("2014-05-10", datetime.date(2014, 5, 10), 1399680000)
    ]
    assert len(set(same)) == 1
    np.savez(folder / "new.npz", items=[0, 7])
    assert new_tokens(loaders(folder, new_items="new.npz", **small)[0]) == {"0", "7"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"new_items": 0}, "share above 0 and below 1"),
        ({"new_items": 1}, "share above 0 and below 1"),
        ({"new_items": {"share": 1.0}}, "share above 0 and below 1"),
        ({"new_items": {"seed": 1}}, "needs one of share, since and file"),
        ({"new_items": {"since": "May"}}, "since must be a date such as 2014-05-01"),
        ({"new_items": {"since": "2014-05-01"}}, "since needs timestamps"),
        ({"new_items": "none.txt"}, "there is no file none.txt, neither here nor in"),
        ({"new_items": "some.txt"}, "1 items that the dataset does not have, e.g. 'i99'"),
        ({"new_items": "other.txt"}, "only 0 of the 2 item ids"),
        ({"new_items": "empty.txt"}, "names no item of the dataset"),
        ({"new_items": "all.txt"}, "leaves no training interaction"),
        ({"new_items": "broken.npz"}, "is not an archive of arrays"),
        ({"new_items": "cut.npz"}, "is not an archive of arrays"),
        ({"new_items": "array.npz"}, "is not an archive of arrays: it is a NumPy array"),
        ({"new_items": "mask.npz"}, "has no array 'items'"),
        ({"new_items": "words.npz"}, "the array 'items' must hold numbers of items"),
        ({"new_items": "most.txt"}, r"user 'u0' of 'planted' has? interacted with all \d+ items that new_items leaves"),
        ({"new_items": 0.2, "rank_items": "warm"}, "rank_items must be one of all, new"),
        ({"rank_items": "new"}, "say which they are with new_items"),
        ({"new_items": "unheld.txt", "rank_items": "new"}, "no held-out interaction is with a new item"),
        ({"new_items": 0.2, "train_neg_sample_args": {"distribution": "popularity"}}, "use the distribution uniform"),
        ({"new_items": 0.2, "rank_items": "new", "eval_args": {"mode": "uni100"}}, "mode'] full"),
        ({"cold_items": "none"}, "cold_items must be one of id, content, neighbours"),
        ({"cold_scale": -0.5}, "cold_scale must be a number from 0"),
    ],
)
def test_faulty_values(tmp_path, settings, sentence):
    folder = write_planted(tmp_path)
    items = [f"i{n}" for n in range(48)]
    with open(folder / "planted.train.inter", "a", encoding="utf-8") as stream:
        stream.write("u0\textra\n")
    with open(folder / "planted.item", "a", encoding="utf-8") as stream:
        stream.write("extra\n")
    for modality in ("image", "text"):
        matrix = np.load(folder / f"planted.{modality}.npy")
        np.save(folder / f"planted.{modality}.npy", np.vstack([matrix, matrix[:1]]))
    for name, listed in (
        *(("some.txt", ["i1", "i99"]), ("other.txt", ["x1", "x2"]), ("empty.txt", []), ("unheld.txt", ["extra"])),
        ("all.txt", [*items, "extra"]),
    ):
        (folder / name).write_text("\n".join(listed))
    (folder / "broken.npz").write_bytes(b"PK")
    (folder / "cut.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    with open(folder / "array.npz", "wb") as stream:
        np.save(stream, np.arange(3))
    np.savez(folder / "mask.npz", t=np.arange(3))
    np.savez(folder / "words.npz", items=np.array(["i1"]))
    of_u0 = {
        line.split("\t")[1] for line in (folder / "planted.train.inter").read_text().splitlines() if "u0\t" in line
    }
    (folder / "most.txt").write_text("\n".join(item for item in [*items, "extra"] if item not in of_u0))
    with pytest.raises(UserError, match=sentence.replace("[", r"\[").replace("]", r"\]")):
        loaders(folder, **settings)


def test_models_that_cannot_use_the_keys():
    for key, value in (
        *(("cold_items", "content"), ("cold_scale", 1.0)),
        *(("cold_users", "popularity"), ("cold_users", "features")),
    ):
        with pytest.raises(UserError, match=f"{key} has no effect on BPR"):
            Config("BPR", "ml-100k", config_dict={key: value})
    with pytest.raises(UserError, match="new_items has no effect on GRU4Rec, which reads sequences"):
        Config("GRU4Rec", "ml-100k", config_dict={"new_items": 0.2, "train_neg_sample_args": None})


def test_users_without_training_interactions_are_counted(tmp_path, caplog):
    folder = write_planted(tmp_path)
    lines = (folder / "planted.train.inter").read_text().splitlines()
    of_one = [line.split("\t")[1] for line in lines[1:] if line.startswith("u7\t")]
    (folder / "new.txt").write_text("\n".join(of_one))
    with caplog.at_level(logging.WARNING):
        train, *_ = loaders(folder, new_items="new.txt", cold_users="popularity")
    assert "leaves 1 users without training interactions" in caplog.text
    dataset = train._dataset
    model = get_model("VBPR")(dataset.config, dataset).eval()
    user, other = (torch.tensor([dataset.token2id("user_id", token)]) for token in ("u7", "u8"))
    counts = np.bincount(dataset.inter_feat["item_id"].numpy(), minlength=dataset.item_num)
    assert model.full_sort_predict({"user_id": user})[1:].tolist() == counts[1:].tolist()
    assert model.full_sort_predict({"user_id": other})[1:].tolist() != counts[1:].tolist()
    items = torch.arange(1, dataset.item_num)
    assert model.predict({"user_id": user.expand(len(items)), "item_id": items}).tolist() == counts[1:].tolist()


@pytest.mark.parametrize("model", ["VBPR", "BPR"])
def test_only_new_items_are_ranked(tmp_path, caplog, model):
    """Every list starts with the new items, and only they are to be found."""
    folder = write_planted(tmp_path)
    settings = {"new_items": 0.4, "rank_items": "new", "epochs": 2, "topk": [5, 30], "valid_metric": "Recall@5"}
    train, valid, test = loaders(folder, model, **settings)
    new = items_without_training(test._dataset)
    assert 0 < len(pairs(test)) < 60 and all(item in new_tokens(test) for _, item in pairs(test) | pairs(valid))
    config = test._dataset.config
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    with caplog.at_level(logging.INFO):
        trainer.fit(train, valid, verbose=False)
        result = trainer.evaluate(test)
    assert result["recall@30"] == 1.0  # 20 new items
    assert new.sum() == 20 and "test by items" in caplog.text
    # everybody's new items, and no others
    everything = caplog.text.split("test by items")[1].split("\n")
    assert any(line.startswith("known") and " 0 " in line for line in everything)


def with_new_item(**settings):
    """30 users, 20 items, the first and the last without training interactions; the last lacks all features."""
    dataset = random_dataset()
    kept = (dataset.items > 0) & (dataset.items < 19)
    features = {m: f.items.copy() for m, f in dataset.item_features.items()}
    for rows in features.values():
        rows[19] = np.nan
    return InMemoryDataset(dataset.users[kept], dataset.items[kept], 30, 20, features, **settings)


def test_ids_that_new_items_have_in_scores():
    dataset = with_new_item()
    found = {}
    for how in ("id", "content", "neighbours"):
        torch.manual_seed(0)
        model = get_model("VBPR")(model_config("VBPR", cold_items=how, impute_neighbours=3), dataset)
        ids = model.item_embedding.weight.detach().clone()
        _, items = model.eval().scored_embeddings()
        found[how] = items[1:, : model.embedding_size]
        torch.testing.assert_close(model.item_embedding.weight, ids, atol=0, rtol=0)
        torch.testing.assert_close(found[how][1:19], ids[1:19], atol=0, rtol=0)
        # training has the ids as they are
        torch.testing.assert_close(model.train().scored_embeddings()[1][1:, : model.embedding_size], ids)
    torch.testing.assert_close(found["id"], ids)
    assert not found["content"][[0, 19]].any() and not found["neighbours"][19].any()
    data = dataset.training_data()
    features = {m: data.features(m) for m in data.modalities}
    unit = {m: x / np.linalg.norm(x, axis=1, keepdims=True) for m, x in features.items()}
    similarity = sum(x[1:19] @ x[0] for x in unit.values())
    nearest = 1 + np.argsort(-similarity)[:3]
    torch.testing.assert_close(found["neighbours"][0], ids[nearest].mean(dim=0))
    known = np.arange(20) % 19 > 0
    (row,) = nearest_by_features(features, {m: data.present(m) for m in features}, ~known, known, 3).nearest
    assert row.tolist() == nearest.tolist()


def test_models_that_cannot_lengthen_what_new_items_are_ranked_by():
    for name, dataset, lacks in (
        ("ItemFeatureKNN", with_new_item(), "scores new items as it scores all others"),
        ("LayerGCN", random_dataset(dims={}), "reads no features"),
    ):
        model = get_model(name)(model_config(name, cold_scale=1.0), dataset)
        with pytest.raises(UserError, match=f"cold_scale has no effect on {name}, which {lacks}: leave it out"):
            model.check_cold_items()


def test_new_items_are_as_long_as_the_others_if_something_is_known_of_them():
    items = torch.randn(21, 4)
    items[0] = 0.0
    scale = ColdScale(with_new_item().training_data(), 0.5)
    found = scale.scaled(items)
    torch.testing.assert_close(found[2:20], items[2:20], atol=0, rtol=0)
    lengths = found.square().sum(dim=1)
    torch.testing.assert_close(lengths[[1, 20]].mean().sqrt(), 0.5 * lengths[2:20].mean().sqrt())
    torch.testing.assert_close(found[1] / found[20], items[1] / items[20])
    unknown = items.clone()
    unknown[[1, 20]] = 0.0
    assert torch.equal(scale.scaled(unknown), unknown)
    # nothing is new
    assert torch.equal(ColdScale(random_dataset().training_data(), 0.5).scaled(items), items)


def test_a_model_without_ids_or_without_features_refuses():
    for name, dataset, lacks in (
        ("PGL", with_new_item(), "has no ids of items"),
        ("MENTOR", with_new_item(), "scores items without training interactions by their features alone"),
        ("LayerGCN", random_dataset(dims={}), "reads no features"),
    ):
        model = get_model(name)(model_config(name, cold_items="content"), dataset)
        assert choices(model, model.data) == ("id",)
        with pytest.raises(UserError, match=f"cold_items: {name}, which {lacks}, does not support 'content'"):
            model.check_cold_items()
