"""Encoders, the .b file, one modality of a prepared dataset, check and plot."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep.__main__ import main
from dataset_prep.check import check_dataset
from dataset_prep.encoders import image as image_module
from dataset_prep.encoders import text as text_module
from dataset_prep.encoders.text import encode_texts
from dataset_prep.features import remove_modality, set_modality
from dataset_prep.images_b import read_b
from dataset_prep.readers.mmrec import read_mmrec
from dataset_prep.stages import Stages
from dataset_prep.write import write_dataset
from recbole_mambarec.errors import UserError

from . import raw


@pytest.fixture
def dataset(tmp_path):
    prepared = read_mmrec(raw.write_mmrec(tmp_path / "raw", maps=True), "small")
    prepared.item_columns = {"text:token_seq": [raw.text_of(n) if n % 4 else "" for n in range(10)]}
    return write_dataset(prepared, tmp_path / "out")[0]


@pytest.fixture
def stages(tmp_path):
    return Stages(tmp_path / "out", "small")


# --- text -----------------------------------------------------------------------------------------


def test_tfidf_makes_similar_texts_close(stages):
    texts = ["warm baby blanket", "", "soft warm blanket", "wooden toy train", "toy train of wood", "!!!"]
    vectors, made_by = encode_texts(texts, "tfidf", stages, width=3, seed=1)
    assert vectors.dtype == np.float32 and made_by == "tfidf (svd 3, seed 1)"
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False, False, False, True]
    cosine = vectors @ vectors.T
    assert cosine[0, 2] > 0.4 > cosine[0, 3] and cosine[3, 4] > 0.4 > cosine[2, 4]
    np.testing.assert_array_equal(vectors, encode_texts(texts, "tfidf", stages, width=3, seed=1)[0])


def test_tfidf_of_many_texts_is_fitted_on_some(stages, monkeypatch):
    monkeypatch.setattr(text_module, "FIT_ON", 60)
    texts = [f"{raw.text_of(n % 10)}" for n in range(200)]
    vectors, _ = encode_texts(texts, "tfidf", stages, width=10)
    assert np.isfinite(vectors).all()
    same = vectors @ vectors.T
    assert (same[0, ::10] > 0.999).all() and (same[0, 1:10] < 0.9).all()


@pytest.mark.parametrize("texts", [["one"], ["one", "one"], ["one", "two"], ["", "one", ""]])
def test_tfidf_of_tiny_catalogues(stages, texts):
    vectors, _ = encode_texts(texts, "tfidf", stages)
    assert len(vectors) == len(texts)
    assert [bool(text) for text in texts] == np.isfinite(vectors).all(axis=1).tolist()


def test_texts_without_words(stages):
    with pytest.raises(UserError, match="no item has a text"):
        encode_texts(["", ""], "tfidf", stages)
    with pytest.raises(UserError, match="hold no words"):
        encode_texts(["!!!", "?"], "tfidf", stages)
    with pytest.raises(UserError, match="unknown text encoder"):
        encode_texts(["a"], "sentence-transformers:", stages)


class FakeSentences:
    """A stand-in for the package sentence_transformers that gives lengths as vectors and records the calls."""

    asked: list
    broken_after = None

    def __init__(self, name, device):
        if name == "missing":
            raise OSError("no such model\nand a page of explanations")

    def encode(self, texts, batch_size, show_progress_bar, convert_to_numpy):
        if FakeSentences.broken_after is not None and len(FakeSentences.asked) >= FakeSentences.broken_after:
            raise KeyboardInterrupt
        FakeSentences.asked.append(list(texts))
        return np.array([[len(text), text.count(" ")] for text in texts], dtype=np.float64)


@pytest.fixture
def sentences(monkeypatch):
    FakeSentences.asked, FakeSentences.broken_after = [], None
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = FakeSentences
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr(text_module, "PIECE", 2)
    return FakeSentences


def test_the_sentence_encoder_resumes_where_it_stopped(stages, sentences):
    texts = ["a b", "", "cc", "ddd d d", "e", "ff f"]
    sentences.broken_after = 2
    with pytest.raises(KeyboardInterrupt):
        encode_texts(texts, "sentence-transformers:x/mini", stages)
    assert sentences.asked == [["a b", "cc"], ["ddd d d", "e"]]
    sentences.broken_after = None
    vectors, made_by = encode_texts(texts, "sentence-transformers:x/mini", stages)
    assert sentences.asked[2:] == [["ff f"]], "finished pieces were encoded again"
    expected = [[3, 1], [np.nan] * 2, [2, 0], [7, 2], [1, 0], [4, 1]]
    np.testing.assert_array_equal(vectors, np.array(expected, dtype=np.float32))
    assert made_by == "sentence-transformers:mini"
    encode_texts([*texts[:-1], "other"], "sentence-transformers:x/mini", stages)
    assert len(sentences.asked) == 6, "other texts must not take the pieces of these"


def test_a_missing_sentence_encoder(stages, sentences):
    with pytest.raises(UserError, match="could not be loaded") as caught:
        encode_texts(["a"], "sentence-transformers:missing", stages)
    assert "\n" not in str(caught.value)


# --- images ---------------------------------------------------------------------------------------


def mean_colour() -> image_module.ImageEncoder:
    """The smallest possible network: the mean of each channel."""
    return image_module.ImageEncoder(
        "mean colour", lambda images: images.mean(dim=(2, 3)), size=8, mean=(0, 0, 0), std=(1, 1, 1)
    )


@pytest.fixture
def pictures(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    folder = tmp_path / "pictures"
    folder.mkdir()
    pillow.new("RGB", (40, 30), (255, 0, 0)).save(folder / f"{raw.item_id(0)}.png")
    pillow.new("L", (9, 30), 255).save(folder / f"{raw.item_id(1)}.JPG", format="JPEG")
    pillow.new("RGBA", (20, 20), (0, 0, 255, 255)).save(folder / f"{raw.item_id(2)}.webp")
    whole = (folder / f"{raw.item_id(0)}.png").read_bytes()
    (folder / f"{raw.item_id(3)}.png").write_bytes(whole[: len(whole) // 2])
    (folder / f"{raw.item_id(4)}.jpg").write_bytes(b"<html>not found</html>")
    (folder / f"{raw.item_id(5)}.gif").write_bytes(b"")
    (folder / "unrelated.png").write_bytes(whole)
    (folder / "notes.txt").write_text("x")
    return folder


def test_images_of_a_folder(stages, pictures):
    ids = [raw.item_id(n) for n in range(7)]
    vectors, skips = image_module.encode_images(pictures, ids, mean_colour(), stages, batch=2)
    assert vectors.shape == (7, 3) and dict(skips.counts) == {"broken image": 3}
    np.testing.assert_allclose(vectors[:3], [[1, 0, 0], [1, 1, 1], [0, 0, 1]], atol=0.01)
    assert np.isnan(vectors[3:]).all()


def test_encoding_images_resumes_where_it_stopped(stages, pictures, monkeypatch):
    monkeypatch.setattr(image_module, "PIECE", 1)
    ids = [raw.item_id(n) for n in range(3)]
    calls = []

    def network(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return images.mean(dim=(2, 3))

    encoder = mean_colour()
    encoder.network = network
    with pytest.raises(KeyboardInterrupt):
        image_module.encode_images(pictures, ids, encoder, stages)
    vectors, _ = image_module.encode_images(pictures, ids, encoder, stages)
    assert len(calls) == 4 and not np.isnan(vectors).any()


def test_faulty_image_folders(stages, pictures, tmp_path):
    with pytest.raises(UserError, match="no image named after an item"):
        image_module.encode_images(pictures, ["nobody"], mean_colour(), stages)
    with pytest.raises(UserError, match="there is no folder"):
        image_module.encode_images(tmp_path / "none", ["a"], mean_colour(), stages)
    with pytest.raises(UserError, match="none of the 3 images"):
        image_module.encode_images(pictures, [raw.item_id(n) for n in (3, 4, 5)], mean_colour(), stages)


def test_enormous_images_count_as_broken(stages, pictures, monkeypatch):
    monkeypatch.setattr(image_module, "MAX_PIXELS", 500)
    ids = [raw.item_id(n) for n in range(3)]
    vectors, skips = image_module.encode_images(pictures, ids, mean_colour(), stages)
    assert np.isnan(vectors).all(axis=1).tolist() == [True, False, False] and skips.counts.total() == 1


class Vgg(torch.nn.Module):
    """The outline of torchvision's vgg16: features, then a sequence whose last layer classifies."""

    def __init__(self):
        super().__init__()
        self.classifier = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))

    def forward(self, images):
        return self.classifier(images.mean(dim=(2, 3)))


def test_a_torchvision_network_is_used_without_its_classifier(tmp_path, stages, pictures, monkeypatch):
    models = types.ModuleType("torchvision.models")
    models.get_model = lambda name, weights: Vgg()
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    trained = Vgg()
    torch.save(trained.state_dict(), tmp_path / "vgg.pth")
    encoder = image_module.load_encoder("torchvision:vgg16", tmp_path / "vgg.pth")
    assert encoder.name == "torchvision:vgg16 (vgg.pth)"
    vectors, _ = image_module.encode_images(pictures, [raw.item_id(0)], encoder, stages)
    picture = torch.from_numpy(encoder.load(pictures / f"{raw.item_id(0)}.png"))
    expected = trained.classifier[:2](picture.mean(dim=(1, 2)))
    np.testing.assert_allclose(vectors[0], expected.detach().numpy(), rtol=1e-5)
    torch.save({"other": torch.zeros(1)}, tmp_path / "wrong.pth")
    for name, sentence in (
        ("wrong.pth", "does not hold the weights"),
        ("none.pth", "there is no weights file"),
    ):
        with pytest.raises(UserError, match=sentence):
            image_module.load_encoder("torchvision:vgg16", tmp_path / name)


def test_unknown_image_encoders():
    with pytest.raises(UserError, match="unknown image encoder"):
        image_module.load_encoder("keras:vgg16", "w.pth")
    with pytest.raises(UserError, match="give --image-weights"):
        image_module.load_encoder("timm:resnet18", None)


# --- .b -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_b_file(tmp_path, packed):
    rows = np.random.default_rng(1).random((5, 4096)).astype(np.float32)
    rows[3, 7] = np.nan
    ids = [b"B000000001", b"B000000002", b"other", b"B000000003", b"B000000001"]
    path = raw.write_b(tmp_path / "f.b", ids, rows)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    wanted = ["B000000002", "B000000003", "B000000001", "missing"]
    array, skips = read_b(path, wanted, tmp_path / "rows.npy", max_bad=0.5)
    np.testing.assert_array_equal(array[0], rows[1])
    np.testing.assert_array_equal(array[2], rows[0])
    assert np.isnan(array[[1, 3]]).all() and skips.lines == 5
    assert dict(skips.counts) == {
        "image features that are not finite": 1,
        "image features of an item given twice": 1,
    }
    with pytest.raises(UserError, match="2 of 5 lines cannot be used"):
        read_b(path, wanted, tmp_path / "rows.npy", max_bad=0.01)


@pytest.mark.parametrize("cut", [1, 4096, 16_393])
def test_b_file_that_ends_within_a_record(tmp_path, cut):
    path = raw.write_b(tmp_path / "f.b", [b"a", b"b"], np.zeros((2, 4096)), cut=cut)
    with pytest.raises(UserError, match="ends in the middle of record 1"):
        read_b(path, ["a"], tmp_path / "rows.npy", max_bad=0.01)


def test_empty_b_file(tmp_path):
    (tmp_path / "f.b").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_b(tmp_path / "f.b", ["a"], tmp_path / "rows.npy", max_bad=0.01)


@given(st.binary(max_size=64), st.integers(0, 3), st.booleans(), st.integers(0, 20_000))
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_b(tmp_path_factory, head, n, packed, cut):
    folder = tmp_path_factory.getbasetemp()
    content = (head.ljust(16_394, b"\x7f") * n)[: max(16_394 * n - cut, 0)]
    (folder / "fuzz.b").write_bytes(gzip.compress(content, 1)[: len(content)] if packed else content)
    try:
        array, skips = read_b(folder / "fuzz.b", ["a", "B000000001"], folder / "rows.npy", max_bad=1)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert skips.lines <= n and (np.isfinite(array).all(axis=1) | np.isnan(array).all(axis=1)).all()


# --- one modality of a dataset --------------------------------------------------------------------


def test_array_with_ids_is_aligned(dataset, tmp_path):
    array = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "ids.txt").write_text("\n".join([raw.item_id(5), "elsewhere", raw.item_id(1)]) + "\n")
    words = ["features", str(dataset), "--modality", "audio", "--array", str(tmp_path / "a.npy")]
    assert main([*words, "--ids", str(tmp_path / "ids.txt")]) == 0
    card, problems = check_dataset(dataset)
    assert problems == [] and list(card["modalities"]) == ["image", "text", "audio"]
    got = np.load(dataset / "small.audio.npy")
    np.testing.assert_array_equal(got[[5, 1]], array[[0, 2]])
    assert card["modalities"]["audio"]["missing"] == 8
    with pytest.raises(UserError, match="has 3 rows, but the dataset has 10 items"):
        main(words)


def test_text_is_replaced(dataset):
    before = np.load(dataset / "small.text.npy")
    assert main(["features", str(dataset), "--modality", "text", "--text-encoder", "tfidf"]) == 0
    card, problems = check_dataset(dataset)
    assert problems == [] and card["modalities"]["text"]["encoder"].startswith("tfidf")
    assert np.load(dataset / "small.text.npy").shape != before.shape
    assert card["modalities"]["text"]["missing"] == 3


def test_images_become_a_modality(dataset, pictures):
    card = set_modality(dataset, "image", images=pictures, image_encoder=mean_colour())
    assert card["modalities"]["image"]["shape"] == [10, 3] and card["modalities"]["image"]["missing"] == 7
    assert check_dataset(dataset)[1] == []


def test_b_becomes_a_modality(dataset, tmp_path):
    path = raw.write_b(tmp_path / "f.b", [raw.item_id(3).encode()], np.ones((1, 4096)))
    assert main(["features", str(dataset), "--modality", "image", "--image-features", str(path)]) == 0
    card, problems = check_dataset(dataset)
    assert problems == [] and card["modalities"]["image"]["missing"] == 9
    assert not (dataset.parent / ".stages").exists()


def test_modality_is_removed(dataset):
    assert main(["features", str(dataset), "--modality", "image", "--remove"]) == 0
    assert list(check_dataset(dataset)[0]["modalities"]) == ["text"]
    assert check_dataset(dataset)[1] == [] and not (dataset / "small.image.npy").exists()
    with pytest.raises(UserError, match="has no modality image"):
        remove_modality(dataset, "image")


def test_a_fault_leaves_the_dataset_as_it_was(dataset, tmp_path):
    before = raw.content(dataset)
    bad = np.ones((10, 2))
    bad[3, 1] = np.inf
    np.save(tmp_path / "bad.npy", bad)
    np.save(tmp_path / "good.npy", np.ones((10, 2)))
    (tmp_path / "twice.txt").write_text("a\n" * 10)
    (tmp_path / "none.txt").write_text("".join(f"x{n}\n" for n in range(10)))
    for change, sentence in (
        ({"array": tmp_path / "bad.npy"}, "row 3 holds values that are not finite"),
        ({"array": tmp_path / "none.npy"}, "there is no file"),
        ({"array": tmp_path / "good.npy", "ids": tmp_path / "twice.txt"}, "names an item twice"),
        ({"array": tmp_path / "good.npy", "ids": tmp_path / "none.txt"}, "names none of the dataset's items"),
        ({}, "give one of"),
    ):
        with pytest.raises(UserError, match=sentence):
            set_modality(dataset, "text", **change)
    with pytest.raises(UserError, match=r"modality name '\.\./x'"):
        set_modality(dataset, "../x", array=tmp_path / "good.npy")
    assert raw.content(dataset) == before


# --- check and plot -------------------------------------------------------------------------------


def edit(name, change):
    def spoil(folder):
        file = folder / name
        text = file.read_text()
        assert change(text) != text
        file.write_text(change(text))

    return spoil


def longer(folder):
    np.save(folder / "small.image.npy", np.zeros((11, 5), np.float32))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "small.test.inter").unlink(), "small.test.inter is missing"),
        (
            edit("small.train.inter", lambda t: t.replace(raw.item_id(1), "nobody")),
            "is not in the list of items",
        ),
        (edit("small.train.inter", lambda t: t + t.splitlines()[1] + "\n"), "repeat a pair"),
        (edit("small.train.inter", lambda t: t + "x\n"), "1 cells, expected 2"),
        (edit("small.item", lambda t: t.replace(raw.item_id(1), raw.item_id(2))), "are listed twice"),
        (edit("small.item", lambda t: t.replace(raw.item_id(1), "NA")), "cannot be used"),
        (longer, "11 rows, but there are 10 items"),
        (lambda f: (f / "small.image.npy").write_bytes(b"x"), "not a whole .npy array"),
        (lambda f: (f / "small.valid.inter").write_text("user_id:token\titem_id:token\n"), "split is empty"),
        (edit("dataset.json", lambda t: t.replace('"users": 12', '"users": 13')), "counts of the card"),
        (
            edit("dataset.json", lambda t: t.replace('"missing": 0', '"missing": 1', 1)),
            "unlike in the card",
        ),
    ],
)
def test_check_finds_problems(dataset, capsys, spoil, sentence):
    spoil(dataset)
    assert main(["check", str(dataset)]) == 1
    assert sentence in capsys.readouterr().out


def test_check_refuses_folders_that_are_not_datasets(tmp_path, dataset):
    for folder, sentence in ((tmp_path / "none", "there is no folder"), (tmp_path, "not a prepared dataset")):
        with pytest.raises(UserError, match=sentence):
            main(["check", str(folder)])
    (dataset / "dataset.json").write_text("[" * 5000)
    with pytest.raises(UserError, match="is not readable JSON"):
        main(["check", str(dataset)])
    (dataset / "dataset.json").write_text(json.dumps({"format": "recbole_mambarec.dataset/1", "name": "small"}))
    with pytest.raises(UserError, match="is not the card"):
        main(["check", str(dataset)])


def test_check_notices_a_renamed_folder(dataset):
    moved = shutil.move(dataset, dataset.parent / "other")
    assert any("is called 'other'" in problem for problem in check_dataset(moved)[1])


def test_plot(dataset, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        assert main(["check", str(dataset), "--plot", str(tmp_path / name)]) == 0
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert picture == (tmp_path / "b.png").read_bytes()
