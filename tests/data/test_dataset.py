"""Folders, descriptions and the dataset class, through RecBole's own functions."""

import json
import pickle

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_mambarec.data.dataset import MultimodalDataset, modality_names
from recbole_mambarec.data.folder import describe, item_tokens
from recbole_mambarec.data.rows import ItemRows
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import QUICK, write_planted


def load(folder, **overrides) -> MultimodalDataset:
    settings = QUICK | {"data_path": str(folder.parent)} | overrides
    return create_dataset(Config("MambaRec", folder.name, config_dict=settings))


def assert_aligned(dataset):
    """The planted first feature of item i<n> is n."""
    tokens = dataset.field2id_token["item_id"]
    for features in dataset.item_features.values():
        for item in range(1, dataset.item_num):
            assert features.matrix[item, 0] == int(tokens[item][1:])
        assert not features.matrix[0].any() and not features.present[0]


def test_a_prepared_folder_describes_itself(tmp_path):
    dataset = load(write_planted(tmp_path, name="any-name_1"))
    assert list(dataset.item_features) == ["image", "text"]
    assert dataset.item_num == 48 + 1 and dataset.user_num == 60 + 1
    assert_aligned(dataset)
    train, valid, test = data_preparation(dataset.config, dataset)
    assert [len(part._dataset.inter_feat) for part in (train, valid, test)] == [360, 60, 60]


def test_arrays_larger_than_feature_memory_stay_on_disk(tmp_path):
    folder = write_planted(tmp_path, modalities={"image": 8, "text": 6})
    assert all(isinstance(f.matrix, np.ndarray) for f in load(folder).item_features.values())
    on_disk = load(folder, feature_memory=0)
    assert all(isinstance(f.matrix, ItemRows) for f in on_disk.item_features.values())
    tokens = on_disk.field2id_token["item_id"][1:]
    for features in on_disk.item_features.values():
        assert features.items[:][:, 0].tolist() == [int(token[1:]) for token in tokens]


def test_the_card_sets_the_order_of_the_modalities(tmp_path):
    folder = write_planted(tmp_path, modalities={"audio": 4, "image": 5, "text": 6})
    card = {"format": "recbole_mambarec.dataset/1", "modalities": {"text": {}, "image": {}}}
    (folder / "dataset.json").write_text(json.dumps(card))
    assert list(load(folder).item_features) == ["text", "image", "audio"]


def test_rows_stay_with_their_items_through_recboles_filtering(tmp_path):
    folder = write_planted(tmp_path)
    lines = []
    for part in ("train", "valid", "test"):
        lines += (folder / f"planted.{part}.inter").read_text().splitlines()[1:]
        (folder / f"planted.{part}.inter").unlink()
    (folder / "planted.inter").write_text("user_id:token\titem_id:token\n" + "\n".join(lines) + "\n")
    everything = load(folder)
    assert everything.benchmark_filename_list is None
    assert_aligned(everything)
    some = load(folder, item_inter_num_interval="[11,inf)", topk=[10], valid_metric="Recall@10")
    assert 10 < some.item_num < everything.item_num
    assert_aligned(some)


def test_items_without_interactions_are_in_the_catalogue(tmp_path):
    folder = write_planted(tmp_path)
    with open(folder / "planted.item", "a", encoding="utf-8") as stream:
        stream.write("i999\n")
    for modality, dim in (("image", 8), ("text", 6)):
        matrix = np.load(folder / f"planted.{modality}.npy")
        np.save(folder / f"planted.{modality}.npy", np.vstack([matrix, np.full(dim, 999, np.float32)]))
    dataset = load(folder)
    assert dataset.item_num == 48 + 1 + 1
    assert_aligned(dataset)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, None),
        ([], []),
        ("", []),
        ("[a]", ["a"]),
        ("[a, b]", ["a", "b"]),
        ("image", ["image"]),
        ("image, text", ["image", "text"]),
        (("a",), ["a"]),
    ],
)
def test_the_ways_to_name_modalities(value, names):
    assert modality_names(value) == names


def test_modalities_are_chosen_by_key(tmp_path):
    folder = write_planted(tmp_path, modalities={"image": 8, "text": 6, "audio": 3})
    assert list(load(folder, modalities=["text", "image"]).item_features) == ["text", "image"]
    assert load(folder, modalities=[]).item_features == {}


def test_a_dataset_survives_pickling_without_carrying_its_arrays(tmp_path):
    folder = write_planted(tmp_path)
    dataset = load(folder)
    data = pickle.dumps(dataset)
    assert b"item_features" not in data
    matrix = np.load(folder / "planted.image.npy")
    np.save(folder / "planted.image.npy", matrix * 1)  # unchanged content
    assert_aligned(pickle.loads(data))


def test_a_saved_dataset_is_not_reused_for_other_modalities(tmp_path):
    folder = write_planted(tmp_path)
    load(folder, save_dataset=True)
    assert list(load(folder).item_features) == ["image", "text"]
    assert list(load(folder, modalities=["text"]).item_features) == ["text"]


def test_splits_share_the_features(tmp_path):
    dataset = load(write_planted(tmp_path))
    train, *_ = data_preparation(dataset.config, dataset)
    assert train._dataset.item_features is dataset.item_features


def test_missing_rows_are_logged_with_their_share(tmp_path, caplog):
    folder = write_planted(tmp_path)
    matrix = np.load(folder / "planted.image.npy")
    matrix[:12] = np.nan
    np.save(folder / "planted.image.npy", matrix)
    caplog.set_level("INFO")
    dataset = load(folder)
    assert "missing for 25.0% of the items" in caplog.text
    assert dataset.item_features["image"].present[1:].sum() == 36


def test_modalities_derived_from_the_item_file_are_kept():
    settings = {"show_progress": False}
    first = create_dataset(Config("MambaRec", "ml-100k", config_dict=settings))
    assert {m: f.dim for m, f in first.item_features.items()} == {"text": 64, "genre": 20}
    assert all(f.present[1:].all() for f in first.item_features.values())
    again = create_dataset(Config("MambaRec", "ml-100k", config_dict=settings))
    for modality, features in first.item_features.items():
        np.testing.assert_array_equal(features.matrix, again.item_features[modality].matrix)
    # Toy Story is an animation for children, a comedy, of 1995
    genre = first.item_features["genre"].matrix[first.token2id("item_id", "1")]
    assert genre[:-1].sum() == 3


# ---------------------------------------------------------------------------- what a user may get wrong


def spoil(folder, change):
    change(folder)
    return folder


def replace_array(**changes):
    def change(folder):
        path = folder / "planted.image.npy"
        np.save(path, changes["by"](np.load(path)))

    return change


def cut_array(folder):
    path = folder / "planted.image.npy"
    path.write_bytes(path.read_bytes()[:300])


def with_nan(matrix):
    matrix[3, 2] = np.nan
    return matrix


def with_inf(matrix):
    matrix[5, 1] = np.inf
    return matrix


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (replace_array(by=lambda m: m[:-1]), "47 rows but the .item file beside it has 48 items"),
        (replace_array(by=with_nan), "NaN or infinite values in row 3"),
        (replace_array(by=with_inf), "NaN or infinite values in row 5"),
        (replace_array(by=lambda m: m.astype(np.int32)), "dtype int32"),
        (cut_array, "truncated"),
        (lambda f: (f / "planted.test.inter").write_text("user_id:token\titem_id:token\n"), "no interactions"),
        (lambda f: (f / "planted.valid.inter").unlink(), "planted.valid.inter is missing"),
        (lambda f: (f / "planted.item").unlink(), "planted.item not found"),
        (lambda f: (f / "planted.train.inter").write_text("a\tb\n1\t2\n"), "no columns user_id and item_id"),
        (lambda f: (f / "dataset.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "planted.item").write_text("item_id\ni1\n"), "column 'item_id' of the first line has no type"),
        (lambda f: (f / "planted.valid.inter").write_text("user_id\titem_id:token\nu1\ti1\n"), "has no type"),
        (lambda f: (f / "dataset.json").write_text('{"format": "other"}'), "not a dataset card"),
        (
            lambda f: (f / "dataset.json").write_text(
                '{"format": "recbole_mambarec.dataset/1", "modalities": {"audio": {}}}'
            ),
            "planted.audio.npy is missing",
        ),
    ],
)
def test_a_broken_folder_gets_one_sentence(tmp_path, change, sentence):
    folder = spoil(write_planted(tmp_path), change)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_an_item_with_interactions_that_the_item_file_does_not_list(tmp_path):
    folder = write_planted(tmp_path)
    with open(folder / "planted.train.inter", "a", encoding="utf-8") as stream:
        stream.write("u1\tghost\n")
    with pytest.raises(UserError, match=r"e\.g\. 'ghost': add a line"):
        load(folder)


def test_lines_that_recbole_would_swallow(tmp_path):
    folder = write_planted(tmp_path)
    lines = (folder / "planted.item").read_text().splitlines()
    titles = ["title:token_seq", '"Open', *["plain"] * (len(lines) - 3), 'Close"']
    lines = [f"{line}\t{title}" for line, title in zip(lines, titles)]
    (folder / "planted.item").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="remove quotation marks"):
        load(folder)


def test_a_split_that_tests_on_training_interactions(tmp_path, caplog):
    folder = write_planted(tmp_path)
    train = (folder / "planted.train.inter").read_text()
    with open(folder / "planted.test.inter", "a", encoding="utf-8") as stream:
        stream.write(train.splitlines()[1] + "\n")
    load(folder)
    assert "1 of 481 interactions of 'planted' are in more than one split" in caplog.text
    (folder / "planted.valid.inter").write_text(train)
    with pytest.raises(UserError, match="must not share interactions"):
        load(folder)


def test_an_unused_interaction_file_is_mentioned(tmp_path, caplog):
    folder = write_planted(tmp_path)
    (folder / "planted.inter").write_text((folder / "planted.test.inter").read_text())
    load(folder)
    assert "the split is used, planted.inter is not" in caplog.text


def test_a_cutoff_beyond_the_catalogue(tmp_path):
    with pytest.raises(UserError, match=r"topk \[100\] asks for more items than the 48"):
        load(write_planted(tmp_path), topk=[100], valid_metric="Recall@100")


def test_an_item_listed_twice(tmp_path):
    folder = write_planted(tmp_path)
    with open(folder / "planted.item", "a", encoding="utf-8") as stream:
        stream.write("i7\n")
    with pytest.raises(UserError, match="more than once"):
        load(folder)


def test_the_error_for_an_unknown_modality_names_the_existing_ones(tmp_path):
    with pytest.raises(UserError, match=r"no modality 'video': .* offers image, text"):
        load(write_planted(tmp_path), modalities=["video"])


def test_float16_arrays_are_read(tmp_path):
    folder = spoil(write_planted(tmp_path), replace_array(by=lambda m: m.astype(np.float16)))
    assert_aligned(load(folder))


def test_a_folder_without_interactions(tmp_path):
    folder = write_planted(tmp_path)
    for file in folder.glob("*.inter"):
        file.unlink()
    with pytest.raises(UserError, match="no interactions in"):
        describe(folder, "planted")


def test_an_ordinary_recbole_folder_is_not_described(tmp_path):
    folder = write_planted(tmp_path, modalities={})
    assert describe(folder, "planted") is None


def test_titles_with_quotation_marks_do_not_swallow_lines(tmp_path):
    path = tmp_path / "x.item"
    path.write_text('item_id:token\ttitle:token_seq\na\t"Open\nb\tnext\n', encoding="utf-8")
    assert item_tokens(path).tolist() == ["a", "b"]
