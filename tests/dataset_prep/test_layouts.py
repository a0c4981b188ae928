"""LATTICE's, MMSSL's and DiffMM's layouts and Ducho's folders: what is read, and the message for each fault."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep.__main__ import main
from dataset_prep.check import check_dataset
from dataset_prep.features import set_modality
from dataset_prep.readers.lattice import read_lattice
from recbole_mambarec.errors import UserError

from . import raw

N_USERS, N_ITEMS = 14, 11
PARTS = ("train", "valid", "test")


def parts(seed: int = 0) -> list[dict[int, list[int]]]:
    """User -> items of training, validation (which some users lack) and test."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(N_ITEMS).tolist() for _ in range(N_USERS)]
    return [
        {user: items[:5] for user, items in enumerate(order)},
        {user: items[5:6] if user % 4 else [] for user, items in enumerate(order) if user != 6},
        {user: items[6:8] for user, items in enumerate(order)},
    ]


def write_arrays(folder, names=("image", "text", "audio"), n_items=N_ITEMS):
    for seed, name in enumerate(names):
        np.save(folder / f"{name}_feat.npy", np.random.default_rng(seed).normal(size=(n_items, 4 + seed)))


def write_json(folder, written=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(("train", "val", "test"), written or parts()):
        (folder / f"{name}.json").write_text(json.dumps(part))
    return folder


def write_matrices(folder, names=("trnMat.pkl", "valMat.pkl", "tstMat.pkl"), forms=("coo", "csr", "csc")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, form, part in zip(names, forms, parts()):
        matrix = np.zeros((N_USERS, N_ITEMS), dtype=np.float32)
        for user, items in part.items():
            matrix[user, items] = 1
        (folder / name).write_bytes(pickle.dumps(sp.coo_matrix(matrix).asformat(form)))
    return folder


def written(folder, name="tiny", user=int, item=int):
    """Pairs of each part as the dataset has them."""
    tables = [pd.read_csv(folder / f"{name}.{part}.inter", sep="\t", dtype=str) for part in PARTS]
    return [{(user(u), item(i)) for u, i in zip(table["user_id:token"], table["item_id:token"])} for table in tables]


def expected():
    return [{(user, item) for user, items in part.items() for item in items} for part in parts()]


def test_mmssl(tmp_path, capsys):
    source = write_json(tmp_path / "raw")
    write_arrays(source)
    for command in ("lattice", "mmssl"):
        assert main([command, str(source), "--name", "tiny", "--out", str(tmp_path / command)]) == 0
        folder = tmp_path / command / "tiny"
        card, problems = check_dataset(folder)
        assert problems == [] and list(card["modalities"]) == ["image", "text", "audio"]
        assert written(folder) == expected()
        np.testing.assert_array_equal(np.load(folder / "tiny.audio.npy"), np.load(source / "audio_feat.npy"))


def test_lattice_with_lists_of_raw_ids(tmp_path):
    source = tmp_path / "raw"
    inner = write_json(source / "5-core")
    write_arrays(source, ("image",))
    (inner / "item_list.txt").write_text("".join(f"{raw.item_id(n)}\t{n}\n" for n in reversed(range(N_ITEMS))))
    (inner / "user_list.txt").write_text(
        "org_id remap_id\n" + "".join(f"{raw.user_id(n)} {n}\n" for n in range(N_USERS))
    )
    for given_as in (source, inner):
        assert main(["lattice", str(given_as), "--name", "tiny", "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "tiny"
    assert list(check_dataset(folder)[0]["modalities"]) == ["image"]
    assert written(folder, user=lambda u: int(u[1:]), item=lambda i: int(i[1:])) == expected()
    write_json(source / "0-core")
    with pytest.raises(UserError, match=r"several folders \(0-core, 5-core\)"):
        read_lattice(source, "tiny")


@pytest.mark.parametrize("names", [("trnMat.pkl", "valMat.pkl", "tstMat.pkl"), ("train_mat", "val_mat", "test_mat")])
def test_diffmm(tmp_path, names):
    source = write_matrices(tmp_path / "raw", names)
    write_arrays(source)
    assert main(["diffmm", str(source), "--name", "tiny", "--out", str(tmp_path / "out")]) == 0
    card, problems = check_dataset(tmp_path / "out" / "tiny")
    assert problems == [] and list(card["modalities"]) == ["image", "text", "audio"]
    assert (card["counts"]["users"], card["counts"]["items"]) == (N_USERS, N_ITEMS)
    assert written(tmp_path / "out" / "tiny") == expected()


JSON_FAULTS = {
    "no val": (lambda s: (s / "val.json").unlink(), r"no val\.json or valid\.json"),
    "list": (lambda s: (s / "train.json").write_text("[[1, 2]]"), "expected an object, user -> list of items"),
    "raw user": (lambda s: (s / "train.json").write_text('{"A1": [1]}'), "user 'A1' is not a whole number.* csv"),
    "raw item": (lambda s: (s / "test.json").write_text('{"1": ["B1"]}'), "user 1 has item 'B1'"),
    "float item": (lambda s: (s / "test.json").write_text('{"1": [1.0]}'), r"user 1 has item 1\.0"),
    "no list": (lambda s: (s / "test.json").write_text('{"1": {"2": 3}}'), "user 1 has an object"),
    "user twice": (lambda s: (s / "train.json").write_text('{"1": [1], "01": [2]}'), "user 01 is listed twice"),
    "cut": (lambda s: (s / "train.json").write_text('{"1": [1'), "not whole JSON"),
    "pointer": (
        lambda s: (s / "train.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "latin-1": (lambda s: (s / "train.json").write_bytes(b'{"\xe9": [1]}'), r"byte 3, in line 1, is 0xe9"),
    "empty part": (lambda s: (s / "val.json").write_text('{"0": []}'), "the valid split .* is empty"),
    "too few rows": (lambda s: write_arrays(s, n_items=N_ITEMS - 1), "names item 10, but the feature files have 10"),
    "raw numbers": (lambda s: (s / "train.json").write_text('{"1999999999": [1]}'), "raw ids, not numbers from 0"),
    "packed array": (lambda s: (s / "video_feat.npy.zip").write_bytes(b"PK"), "video_feat.npy.zip is not read"),
    "no train": (lambda s: (s / "train.json").unlink(), "no train.json"),
}


@pytest.mark.parametrize("case", JSON_FAULTS)
def test_faulty_json(tmp_path, case):
    spoil, sentence = JSON_FAULTS[case]
    source = write_json(tmp_path / "raw")
    write_arrays(source)
    spoil(source)
    with pytest.raises(UserError, match=sentence) as caught:
        main(["lattice", str(source), "--name", "tiny", "--out", str(tmp_path / "out")])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_byte_order_marks(tmp_path):
    source = write_json(tmp_path / "raw")
    for file in source.glob("*.json"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (source / "item_list.txt").write_text(
        "\ufeff" + "".join(f"{raw.item_id(n)}\t{n}\n" for n in range(N_ITEMS)), encoding="utf-8"
    )
    prepared = read_lattice(source, "tiny")
    assert prepared.item_ids == [raw.item_id(n) for n in range(N_ITEMS)]


MATRIX_FAULTS = {
    "no valMat": (lambda s: (s / "valMat.pkl").unlink(), r"no valMat\.pkl, and a dataset needs all three"),
    "other shape": (
        lambda s: (s / "valMat.pkl").write_bytes(pickle.dumps(sp.coo_matrix((N_USERS, 3)))),
        "valMat.pkl is 14 x 3, but trnMat.pkl is 14 x 11",
    ),
    "nothing": (
        lambda s: (s / "valMat.pkl").write_bytes(pickle.dumps(sp.coo_matrix((N_USERS, N_ITEMS)))),
        "the valid split .* is empty",
    ),
    "too few rows": (lambda s: write_arrays(s, n_items=N_ITEMS - 1), "names item 10, but the feature files have 10"),
}


@pytest.mark.parametrize("case", MATRIX_FAULTS)
def test_faulty_matrices(tmp_path, case):
    spoil, sentence = MATRIX_FAULTS[case]
    source = write_matrices(tmp_path / "raw")
    write_arrays(source)
    spoil(source)
    with pytest.raises(UserError, match=sentence):
        main(["diffmm", str(source), "--name", "tiny", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_error_names_the_right_command(tmp_path):
    write_json(tmp_path / "json")
    write_matrices(tmp_path / "matrices")
    raw.write_mmrec(tmp_path / "table")
    for command, folder, right in (
        ("mmrec", "json", "lattice"),
        ("mmrec", "matrices", "diffmm"),
        ("lattice", "matrices", "diffmm"),
        ("lattice", "table", "mmrec"),
        ("diffmm", "json", "lattice"),
    ):
        with pytest.raises(UserError, match=f"dataset_prep {right}` reads it"):
            main([command, str(tmp_path / folder), "--name", "tiny", "--out", str(tmp_path / "out")])


def test_arrays_under_other_names_are_named(tmp_path):
    source = write_json(tmp_path / "raw")
    np.save(source / "visual.npy", np.ones((N_ITEMS, 3)))
    with pytest.raises(UserError, match=r"visual\.npy has a row for each of the 11 items, but is not called"):
        read_lattice(source, "tiny")
    write_arrays(source, ("image",))
    assert any("visual.npy" in note for note in read_lattice(source, "tiny").card["notes"])


numbers = st.one_of(st.integers(-1, 20), st.floats(), st.text(max_size=3), st.none(), st.booleans())


@given(
    st.one_of(
        st.binary(max_size=80),
        st.dictionaries(
            st.one_of(st.integers(0, 20).map(str), st.text(max_size=3)),
            st.one_of(numbers, st.lists(numbers, max_size=4)),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_json(tmp_path_factory, content):
    source = write_json(tmp_path_factory.getbasetemp() / "fuzz_json")
    (source / "train.json").write_bytes(content)
    try:
        prepared = read_lattice(source, "tiny", max_bad=1)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert prepared.interactions.items.max() < len(prepared.item_ids)


# --- Ducho ----------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    source = raw.write_mmrec(tmp_path / "raw", maps=True)
    assert main(["mmrec", str(source), "--name", "tiny", "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out" / "tiny"


def write_vectors(folder, ids, width=6, one_row=True):
    folder.mkdir(parents=True, exist_ok=True)
    for n, item in enumerate(ids):
        vector = np.full(width, n + 1, dtype=np.float32)
        np.save(folder / f"{item}.npy", vector[None] if one_row else vector)
    return folder


@pytest.mark.parametrize("one_row", [True, False])
def test_folder_of_one_array_per_item(dataset, tmp_path, one_row):
    ids = [raw.item_id(n) for n in (7, 2, 9, 4)]
    write_vectors(tmp_path / "visual" / "torch" / "ResNet50" / "avgpool", [*ids, "unrelated"], one_row=one_row)
    for option in ("--array", "--image-features"):
        assert main(["features", str(dataset), "--modality", "image", option, str(tmp_path / "visual")]) == 0
        card, problems = check_dataset(dataset)
        assert problems == [] and card["modalities"]["image"]["missing"] == 6
        assert card["modalities"]["image"]["sources"][0]["files"] == 4
        array = np.load(dataset / "tiny.image.npy")
        np.testing.assert_array_equal(array[[7, 2, 9, 4]], np.repeat([[1], [2], [3], [4]], 6, axis=1))
    assert not (dataset.parent / ".stages").exists()


def save_over(name, array):
    return lambda folder: np.save(folder / f"{name}.npy", array, allow_pickle=True)


VECTOR_FAULTS = {
    "other width": (
        save_over(raw.item_id(3), np.ones((1, 7))),
        "B000000003.npy has 7 numbers, but B000000000.npy has 6",
    ),
    "two rows": (save_over(raw.item_id(3), np.ones((2, 6))), r"expected one row of numbers.*found \(2, 6\)"),
    "not finite": (save_over(raw.item_id(3), np.array([1, np.inf, 1, 1, 1, 1])), "B000000003.npy: .* not finite"),
    "objects": (save_over(raw.item_id(3), np.array([{}])), "B000000003.npy: .*pickled Python objects"),
    "texts": (save_over(raw.item_id(3), np.array(["a"] * 6)), "expected float16"),
    "cut": (lambda f: (f / f"{raw.item_id(3)}.npy").write_bytes(b"\x93NUMPY\x01"), "B000000003.npy: not a whole .npy"),
    "two models": (lambda f: f.rename(f.parent / "m" / "a") and write_vectors(f.parent / "m" / "b", "x"), "2 folders"),
}


@pytest.mark.parametrize("case", VECTOR_FAULTS)
def test_faulty_folders_of_arrays(dataset, tmp_path, case):
    spoil, sentence = VECTOR_FAULTS[case]
    (tmp_path / "m").mkdir()
    folder = write_vectors(tmp_path / "visual", [raw.item_id(n) for n in range(10)])
    spoil(folder)
    before = raw.content(dataset.parent)
    with pytest.raises(UserError, match=sentence) as caught:
        set_modality(dataset, "image", array=folder if folder.exists() else tmp_path / "m")
    assert "\n" not in str(caught.value) and raw.content(dataset.parent) == before


def test_folders_of_arrays_of_other_items(dataset, tmp_path):
    with pytest.raises(UserError, match=r"names none of the dataset's items.*'0', '1'"):
        set_modality(dataset, "image", array=write_vectors(tmp_path / "indexed", range(10)))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no \.npy file"):
        set_modality(dataset, "image", array=tmp_path / "none")
    with pytest.raises(UserError, match="omit --ids and --first-id"):
        set_modality(dataset, "image", array=tmp_path / "indexed", first_id=0)


def test_a_model_trains_on_each_layout(tmp_path):
    from recbole.quick_start import run_recbole

    import recbole_mambarec  # noqa: F401

    source = write_json(tmp_path / "json")
    write_arrays(source, ("text",))
    main(["lattice", str(source), "--name", "one", "--out", str(tmp_path / "out")])
    source = write_matrices(tmp_path / "matrices")
    main(["diffmm", str(source), "--name", "two", "--out", str(tmp_path / "out")])
    write_vectors(tmp_path / "visual", range(N_ITEMS))
    set_modality(tmp_path / "out" / "two", "image", array=tmp_path / "visual")
    for name in ("one", "two"):
        settings = {
            "data_path": str(tmp_path / "out"),
            "checkpoint_dir": str(tmp_path / "saved"),
            "epochs": 1,
            "show_progress": False,
            "use_gpu": False,
            "topk": [3],
            "valid_metric": "Recall@3",
        }
        result = run_recbole(model="VBPR", dataset=name, config_dict=settings, saved=False)
        assert 0 <= result["test_result"]["recall@3"] <= 1
