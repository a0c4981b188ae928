"""Datasets whose arrays are not where, or what, they should be; and arrays beside files of another layout."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_mambarec.cli import run_recbole
from recbole_mambarec.data.strays import modality_of, stray_features
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.testing.planted import QUICK, write_planted

OURS = ["MambaRec", "MGCN", "BM3", "VBPR", "FREEDOM"]


def load(folder: Path, model: str = "MambaRec", **overrides):
    settings = QUICK | {"data_path": str(folder.parent)} | overrides
    return create_dataset(Config(model, folder.name, config_dict=settings))


def array(folder: Path) -> bytes:
    """The planted dataset's image array as the content of a file, taken out of the folder with the other one."""
    content = (folder / f"{folder.name}.image.npy").read_bytes()
    for path in folder.glob("*.npy"):
        path.unlink()
    return content


# ---------------------------------------------------------------------------- arrays under another name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("image_feat.npy", "call it shop.image.npy"),
        ("shop_visual.npy", "call it shop.visual.npy"),
        ("other.text.npy", "call it shop.text.npy"),
        ("Shop.image.npy", "call it shop.image.npy"),
        ("shop.image.NPY", "call it shop.image.npy"),
        ("shop.npy", "call it shop.<modality>.npy"),
        ("embeddings/audio.npy", "call it shop.audio.npy"),
        ("shop.image.npz", "has a format that is not read: save its array with numpy.save as shop.image.npy"),
        ("text_features.pt", "has a format that is not read: save its array with numpy.save as shop.text.npy"),
        ("image.pkl", "has a format that is not read"),
        ("shop.image.npy.gz", "is compressed: unpack it and call it shop.image.npy"),
        ("shop.image.npy.dvc", "dvc pull"),
        ("image_features_Shop.b", "--image-features"),
    ],
)
@pytest.mark.parametrize("model", ["MambaRec", "VBPR"])
def test_the_near_miss_is_named(tmp_path, model, name, sentence):
    folder = write_planted(tmp_path, name="shop")
    content = array(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    parts = {"benchmark_filename": ["train", "valid", "test"]}
    with pytest.raises(UserError) as caught:
        load(folder, model, **parts)
    message = str(caught.value)
    assert f"{model} learns from item features, and dataset 'shop' has none" in message
    assert str(folder / name) in message and sentence in message
    with pytest.raises(UserError, match="offers none; "):
        load(folder, model, modalities=["image"], **parts)
    with pytest.raises(UserError, match="has none"):
        resolve(model, "shop", overrides={"data_path": str(tmp_path), **parts})
    # RecBole's models have no use for features
    assert load(folder, "BPR", **parts).item_num == 48 + 1


def test_masks_and_lists_of_new_items_are_no_features(tmp_path):
    folder = write_planted(tmp_path, name="shop")
    np.savez(folder / "shop-0.6.npz", t=np.arange(2), tv=np.arange(2, 4), all=np.arange(4, 6))
    np.savez(folder / "shop-new-items.npz", items=np.arange(3))
    assert stray_features(folder, "shop") == []
    np.savez(folder / "shop.image.npz", arr_0=np.ones((3, 2)))
    (folder / "broken.npz").write_bytes(b"PK")
    assert [sentence.partition(" ")[0].rpartition("/")[2] for sentence in stray_features(folder, "shop")] == [
        "broken.npz",
        "shop.image.npz",
    ]


def test_one_array_per_item(tmp_path):
    folder = write_planted(tmp_path, name="shop")
    array(folder)
    (folder / "visual").mkdir()
    for n in range(4):
        np.save(folder / "visual" / f"i{n}.npy", np.ones(8, np.float32))
    with pytest.raises(UserError, match=r"holds 4 files like i0\.npy: stack them into one array shop\.visual\.npy"):
        load(folder, benchmark_filename=["train", "valid", "test"])


@pytest.mark.parametrize("model", OURS)
def test_no_features_at_all(tmp_path, model):
    folder = write_planted(tmp_path, name="shop", modalities={})
    parts = {"benchmark_filename": ["train", "valid", "test"]}
    with pytest.raises(UserError, match=r"an array .*shop\.<modality>\.npy or a recipe in derive_modalities"):
        load(folder, model, **parts)
    (folder / "dataset.json").write_text('{"format": "recbole_mambarec.dataset/1", "modalities": {}}')
    with pytest.raises(UserError, match="has none"):
        load(folder, model)
    assert load(folder, model, modalities=[], **parts).item_features == {}


def test_ids_alone_are_trained_on_when_asked_for(tmp_path, monkeypatch, capsys):
    write_planted(tmp_path, name="shop", modalities={})
    settings = [f"--{key}={value}" for key, value in (QUICK | {"epochs": 1, "data_path": tmp_path}).items()]
    arguments = ["--dataset=shop", "--benchmark_filename=[train,valid,test]", *settings]
    for asked, status in (([], 2), (["--modalities=[]"], 0)):
        monkeypatch.setattr("sys.argv", ["run_recbole.py", *arguments, *asked])
        with pytest.raises(SystemExit) as caught:
            run_main(lambda given=(*arguments, *asked): run_recbole(list(given)))
        assert caught.value.code == status
        assert (
            list(Path("saved").glob("*.pth"))
            if status == 0
            else "modalities: [] asks for ids" in capsys.readouterr().err
        )


def test_an_unread_array_beside_others_gives_a_warning(tmp_path, caplog):
    folder = write_planted(tmp_path)
    (folder / "planted.text.npy").rename(folder / "text_feat.npy")
    assert list(load(folder).item_features) == ["image"]
    assert "text_feat.npy is not read under this name: call it planted.text.npy" in caplog.text
    caplog.clear()
    load(folder, modalities=[])
    assert "text_feat" not in caplog.text


@pytest.mark.parametrize(
    ("stem", "modality"),
    [
        ("image_feat", "image"),
        ("Baby-Text-Features", "text"),
        ("baby", "<modality>"),
        ("clothing.audio", "audio"),
        ("lyrics_embeddings", "lyrics"),
        ("image_clip_512", "image"),
    ],
)
def test_the_modality_of_a_file_name(stem, modality):
    assert modality_of(stem, "baby") == modality


# ---------------------------------------------------------------------------- arrays that are something else


def saved(**kwargs) -> bytes:
    stream = io.BytesIO()
    np.save(stream, **kwargs)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "run `git lfs pull`"),
        (lambda c: b"/annex/objects/MD5E-s1--2.npy\n", "run `git annex get`"),
        (lambda c: b"<html>Sign in</html>", "is an HTML page"),
        (gzip.compress, "unpack it with `gunzip`"),
        (lambda c: saved(arr=np.array([None] * 48), allow_pickle=True), "pickled Python objects"),
        (lambda c: c[:-1], "is a truncated NumPy array"),
        (lambda c: b"0.1 0.2 0.3\n", "in another format: write it again with numpy.save"),
    ],
)
def test_a_file_in_place_of_an_array_is_recognised(tmp_path, change, sentence):
    folder = write_planted(tmp_path)
    path = folder / "planted.image.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert f"{path} is not a readable .npy array" in str(caught.value) and sentence in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


def test_an_array_of_almost_nobody(tmp_path):
    folder = write_planted(tmp_path, groups=20)
    matrix = np.load(folder / "planted.image.npy")
    matrix[3:] = np.nan
    np.save(folder / "planted.image.npy", matrix)
    assert load(folder).item_features["image"].present.sum() == 3  # 1.25 % of 240
    matrix[2:] = np.nan
    np.save(folder / "planted.image.npy", matrix)
    with pytest.raises(UserError, match="features for only 2 of the 240 items, the other rows are NaN"):
        load(folder)


@pytest.mark.parametrize("load_col", [None, {"inter": ["user_id", "item_id"]}])
def test_ids_that_item_writes_differently(tmp_path, load_col):
    folder = write_planted(tmp_path)
    items = folder / "planted.item"
    items.write_text(items.read_text().replace("\ni", "\nI"))
    for model in ("MambaRec",) if load_col else ("MambaRec", "BPR"):
        with pytest.raises(
            UserError, match=r"48 of the 48 item ids .* differently, 'I\d+' for 'i\d+': write them alike"
        ):
            load(folder, model, load_col=load_col)


# ---------------------------------------------------------------------------- files of another layout

FIELDS = {"USER_ID_FIELD": "who", "ITEM_ID_FIELD": "what", "RATING_FIELD": "stars", "TIME_FIELD": "when"}


def rewrite(folder: Path, parts=("train", "valid", "test"), separator=",", encoding="utf-8", title="The {}, vol. 1"):
    """The planted dataset with four columns of other names, other parts, a title per item."""
    for old, new in zip(("train", "valid", "test"), parts):
        path = folder / f"planted.{old}.inter"
        pairs = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        path.unlink()
        lines = [["who:token", "what:token", "stars:float", "when:float"]]
        lines += [[*pair, str(1 + n % 5), str(n)] for n, pair in enumerate(pairs)]
        text = "".join(separator.join(line) + "\n" for line in lines)
        (folder / f"planted.{new}.inter").write_text(text, encoding=encoding)
    path = folder / "planted.item"
    quote = '"' if separator == "," else ""
    items = [[item, quote + title.format(item) + quote] for item in path.read_text().splitlines()[1:]]
    lines = [["what:token", "title:token_seq"], *items]
    path.write_text("".join(separator.join(line) + "\n" for line in lines), encoding=encoding)
    return folder


def assert_as_planted(dataset):
    tokens = dataset.field2id_token["what"]
    assert dataset.user_num == 60 + 1 and dataset.item_num == 48 + 1
    for features in (dataset.item_features["image"], dataset.item_features["text"]):
        assert [int(tokens[k][1:]) for k in range(1, 49)] == features.matrix[1:, 0].tolist()
    parts = data_preparation(dataset.config, dataset)
    assert [len(part._dataset.inter_feat) for part in parts] == [360, 60, 60]


@pytest.mark.parametrize("separator", [",", "|", "::", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_arrays_beside_files_of_another_layout(tmp_path, separator, encoding):
    folder = rewrite(write_planted(tmp_path), ("one", "two", "three"), separator, encoding, "Café {}, tome 1")
    settings = FIELDS | {"field_separator": separator, "benchmark_filename": ["one", "two", "three"]}
    settings |= {} if encoding == "utf-8-sig" else {"encoding": encoding}
    dataset = load(folder, **settings)
    assert_as_planted(dataset)
    assert set(dataset.inter_feat.columns) == {"who", "what", "stars", "when"}
    assert load(folder, "BPR", **settings).item_num == 48 + 1
    recipe = {"words": {"kind": "tfidf", "fields": ["title"], "dim": 3}}
    words = load(folder, **settings, derive_modalities=recipe, modalities=["words", "image"])
    assert words.item_features["words"].dim == 3


def test_parts_as_a_command_line_gives_them(tmp_path):
    folder = rewrite(write_planted(tmp_path), ("part1", "part2", "part3"), "\t")
    for given in ("[part1,part2,part3]", "part1, part2, part3", ("part1", "part2", "part3")):
        assert_as_planted(load(folder, **FIELDS, benchmark_filename=given))
    with pytest.raises(UserError, match=r"the folder has .* with benchmark_filename: \[part1, part2, part3\]"):
        load(folder, **FIELDS)
    with pytest.raises(UserError, match="no columns user_id and item_id"):
        load(folder, benchmark_filename=["part1", "part2", "part3"])


def test_a_whole_file_beside_a_split_can_be_asked_for(tmp_path):
    folder = write_planted(tmp_path)
    (folder / "planted.inter").write_text((folder / "planted.train.inter").read_text())
    assert len(load(folder, benchmark_filename=None).inter_feat) == 360
    assert len(load(folder).inter_feat) == 480


@pytest.mark.parametrize("columns", [None, {"inter": "*", "item": "*"}, {"inter": ["what", "who"]}])
def test_the_users_columns_beside_arrays(tmp_path, columns):
    folder = rewrite(write_planted(tmp_path), separator="\t")
    dataset = load(folder, **FIELDS, load_col=columns)
    assert_as_planted(dataset)
    assert (dataset.item_feat is not None) == (columns is None or "item" in columns)


def test_a_card_with_a_byte_order_mark(tmp_path):
    folder = write_planted(tmp_path)
    card = '{"format": "recbole_mambarec.dataset/1", "modalities": {"text": {}, "image": {}}}'
    (folder / "dataset.json").write_text(card, encoding="utf-8-sig")
    assert list(load(folder).item_features) == ["text", "image"]


def test_byte_order_marks_beside_arrays(tmp_path):
    folder = write_planted(tmp_path)
    with open(folder / "planted.item", "a", encoding="utf-8") as stream:
        stream.write("i999\n")
    for modality in ("image", "text"):
        matrix = np.load(folder / f"planted.{modality}.npy")
        np.save(folder / f"planted.{modality}.npy", np.vstack([matrix, np.full_like(matrix[:1], 999)]))
    for path in (folder / "planted.item", folder / "planted.test.inter"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    for model in ("MambaRec", "BPR", "LightGCN"):
        dataset = load(folder, model)
        assert dataset.item_num == 48 + 1 + 1 and dataset.user_num == 60 + 1


def test_a_knowledge_graph_beside_arrays(tmp_path):
    folder = write_planted(tmp_path)
    links = "".join(f"i{n}\te{n}\n" for n in range(48))
    (folder / "planted.link").write_text("item_id:token\tentity_id:token\n" + links)
    triples = "".join(f"e{n}\tnext\te{(n + 1) % 48}\n" for n in range(48))
    (folder / "planted.kg").write_text("head_id:token\trelation_id:token\ttail_id:token\n" + triples)
    assert len(load(folder, "CFKG").kg_feat) == 48
