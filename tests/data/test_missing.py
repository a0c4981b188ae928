"""The keys missing_modalities, impute_missing and modality_dropout, through configurations, datasets and runs."""

import shutil

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset
from recbole.quick_start import load_data_and_model, run_recbole

from dataset_prep.__main__ import main as prepare
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.users import _presence
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec_common.masks import read_mask
from tests.dataset_prep.raw import write_mmrec


def configured(folder, model="MambaRec", **overrides):
    return Config(model, folder.name, config_dict=QUICK | {"data_path": str(folder.parent)} | overrides)


def load(folder, **overrides):
    return create_dataset(configured(folder, **overrides))


def key_of(folder, model="MambaRec", **overrides):
    return resolve(model, folder.name, overrides=QUICK | {"data_path": str(folder.parent)} | overrides).key


def absent(dataset, modality):
    """Tokens of the items that lack a modality."""
    tokens = dataset.field2id_token["item_id"]
    return {str(tokens[item]) for item in np.flatnonzero(~dataset.item_features[modality].present) if item > 0}


def test_a_rate_hides_features_and_is_kept_beside_the_dataset(tmp_path, caplog):
    folder = write_planted(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    dataset = load(folder, missing_modalities=0.5)
    image, text = absent(dataset, "image"), absent(dataset, "text")
    assert len(image | text) == 24 and len(image & text) == 12 and len(image) == len(text) == 18
    (kept,) = (path for path in folder.iterdir() if path.name not in before)
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    order = (folder / "planted.item").read_text().split()[1:]
    mask = read_mask(kept, order, ["image", "text"])
    assert {order[row] for row in np.flatnonzero(mask["image"])} == image
    features = dataset.item_features["image"]
    mean = features.matrix[1:][features.present[1:]].mean(axis=0)
    np.testing.assert_allclose(features.matrix[1:][~features.present[1:]], np.tile(mean, (18, 1)), rtol=1e-5)
    # read back, whatever a run uses of it
    stamp = kept.stat().st_mtime_ns
    assert absent(load(folder, missing_modalities=0.5, modalities=["text"]), "text") == text
    assert kept.stat().st_mtime_ns == stamp
    drawn = kept.read_text()
    changes = (
        drawn.replace("text\n", "image\n", 1),
        drawn + f"{next(iter(set(order) - image))},all\n",
        drawn.replace("# content", "# was") + "i1,text\n",
    )
    for changed in changes:
        kept.write_text(changed)
        with pytest.raises(UserError, match="was changed after it was drawn"):
            load(folder, missing_modalities=0.5)


def test_a_file_here_or_in_the_folder_of_the_dataset(tmp_path):
    folder = write_planted(tmp_path)
    (folder / "mask.csv").write_text("item_id,modality\ni3,image\ni4,all\n")
    dataset = load(folder, missing_modalities="mask.csv")
    assert absent(dataset, "image") == {"i3", "i4"} and absent(dataset, "text") == {"i4"}
    present = _presence(dataset)
    tokens = dataset.field2id_token["item_id"]
    assert {m: set(tokens[~has]) for m, has in present.items()} == {"image": {"i3", "i4"}, "text": {"i4"}}


def test_a_file_that_has_changed_is_not_that_of_the_run(tmp_path, monkeypatch):
    """Neither when a dataset is made nor when a model is loaded; the file of the same name that has not is taken."""
    monkeypatch.chdir(tmp_path)
    folder = write_planted(tmp_path)
    mask = tmp_path / "mask.csv"
    mask.write_text("item_id,modality\ni3,image\n")
    settings = {"data_path": str(tmp_path), "epochs": 1, "missing_modalities": "mask.csv"}
    config = configured(folder, "VBPR", **settings)
    file = run_recbole("VBPR", "planted", config_dict=QUICK | settings, saved=True)
    (file,) = (tmp_path / "saved").glob("VBPR*.pth")
    before = mask.read_text()
    mask.write_text(before + "i4,image\n")
    with pytest.raises(UserError, match=r"mask\.csv has changed since its hash was recorded"):
        create_dataset(config)
    with pytest.raises(UserError, match=r"mask\.csv has changed since its hash was recorded"):
        load_data_and_model(str(file))
    (folder / "mask.csv").write_text(before)
    dataset = load_data_and_model(str(file))[2]
    assert absent(dataset, "image") == absent(create_dataset(config), "image") == {"i3"}


def test_a_faulty_mask_is_found_before_a_training_that_reads_no_features(tmp_path):
    folder = write_planted(tmp_path)
    (folder / "mask.csv").write_text("item_id,modality\nx1,image\nx2,image\n")
    for model in ("BPR", "LayerGCN"):
        for value, sentence in (("mask.csv", "only 0 of the 2 item ids"), ({"rate": 0.4, "kinds": ["foo"]}, "foo")):
            with pytest.raises(UserError, match=sentence):
                create_dataset(configured(folder, model, missing_modalities=value))


def test_a_rule_that_is_refused_leaves_no_file(tmp_path):
    folder = write_planted(tmp_path, modalities={"text": 3})
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="hides every modality of every item"):
        load(folder, missing_modalities=1)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("key", "value", "idle"),
    [
        ("missing_modalities", {"file": "m.csv", "kinds": ["image"]}, "kinds has no effect beside file"),
        ("missing_modalities", {"rate": 0.4, "sha256": "abc"}, "sha256 has no effect beside rate"),
        ("new_items", {"since": "2014-05-01", "seed": 4}, "seed has no effect beside since"),
        ("new_items", {"share": 0.2, "sha256": "abc"}, "sha256 has no effect beside share"),
    ],
)
def test_parts_of_a_value_that_have_no_effect(tmp_path, key, value, idle):
    with pytest.raises(UserError, match=f"{key}: {idle}: leave it out"):
        configured(write_planted(tmp_path), **{key: value})


def test_seeds_of_masks_are_those_of_the_key(tmp_path, capsys):
    folder = write_planted(tmp_path)
    for seed in ("-1", str(2**32), "x"):
        with pytest.raises(SystemExit):
            prepare(["mask", str(folder), "--rate", "0.5", "--seed", seed])
        assert "is not a whole number from 0 to" in capsys.readouterr().err


def test_equal_masks_have_equal_keys(tmp_path):
    folder = write_planted(tmp_path)
    (folder / "mask.csv").write_text("item_id,modality\ni3,image\n")
    unset = key_of(folder)
    assert key_of(folder, missing_modalities=0) == key_of(folder, impute_missing="mean") == unset
    assert key_of(folder, impute_missing="drop", modality_dropout=0.0, impute_neighbours=10) == unset
    rate = key_of(folder, missing_modalities=0.4)
    assert rate == key_of(folder, missing_modalities={"rate": 0.4, "seed": 999, "kinds": None}) != unset
    file = key_of(folder, missing_modalities="mask.csv")
    shutil.copy(folder / "mask.csv", tmp_path / "other.csv")
    assert key_of(folder, missing_modalities=str(tmp_path / "other.csv")) == file
    (folder / "mask.csv").write_text("item_id,modality\ni4,image\n")
    others = [
        key_of(folder, missing_modalities="mask.csv"),
        key_of(folder, missing_modalities={"rate": 0.4, "seed": 1}),
        key_of(folder, missing_modalities={"rate": 0.4, "kinds": ["text"]}),
        key_of(folder, impute_missing="zero"),
        key_of(folder, modality_dropout=0.1),
    ]
    assert len({unset, rate, file, *others}) == 8
    assert key_of(folder, "DGMRec", impute_missing="learned") == key_of(folder, "DGMRec")
    assert key_of(folder, "DGMRec", impute_missing="mean") != key_of(folder, "DGMRec")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"missing_modalities": 1.5}, "number from 0 to 1, got 1.5"),
        ({"missing_modalities": -0.1}, "number from 0 to 1"),
        ({"missing_modalities": [0.5]}, "must be the path of a mask, a rate from 0 to 1, or a rule"),
        ({"missing_modalities": {"rate": 2}}, r"missing_modalities\['rate'\] must be a number from 0 to 1"),
        ({"missing_modalities": {"seed": 2}}, "needs either a rate or a file"),
        ({"missing_modalities": {"rate": 0.2, "sed": 2}}, "has no key 'sed'"),
        ({"missing_modalities": {"rate": 0.2, "kinds": 3}}, "must be a list of names"),
        ({"missing_modalities": "none.csv"}, "there is no file none.csv, neither here nor in"),
        ({"missing_modalities": {"rate": 0.2, "kinds": ["audio"]}}, "no modality 'audio'"),
        ({"missing_modalities": 0.001}, "the rate 0.001 of 48 items hides nothing: give a higher rate, or 0"),
        ({"missing_modalities": {"rate": 1, "kinds": "all"}}, "hides every modality of every item"),
        ({"missing_modalities": {"rate": 1, "kinds": "image"}}, "hides 'image' from every item that has it: leave"),
        ({"missing_modalities": {"file": "mask.csv", "sha256": "0"}}, "has changed since its hash was recorded"),
        ({"missing_modalities": "mask.csv"}, "1 items that the dataset does not have, e.g. 'i99'"),
        ({"impute_missing": "median"}, "impute_missing must be one of mean, zero"),
        ({"impute_missing": "learned"}, "MambaRec does not generate missing features"),
        ({"impute_neighbours": 0}, "impute_neighbours must be a whole number from 1"),
        ({"modality_dropout": 1}, "from 0 to below 1"),
    ],
)
def test_faulty_values(tmp_path, settings, sentence):
    folder = write_planted(tmp_path)
    (folder / "mask.csv").write_text("item_id,modality\ni1,image\ni99,image\n")
    with pytest.raises(UserError, match=sentence):
        load(folder, **settings)


def test_models_without_features():
    """What a mask hides from them does not exist; what would change their training is refused."""
    with pytest.raises(UserError, match="modality_dropout has no effect on BPR"):
        Config("BPR", "ml-100k", config_dict={"modality_dropout": 0.1})


def test_a_dataset_of_recbole_keeps_its_masks_in_the_cache(tmp_path):
    config = Config("VBPR", "ml-100k", config_dict={"missing_modalities": 0.3, "cache_dir": str(tmp_path / "here")})
    dataset = create_dataset(config)
    assert 0 < len(absent(dataset, "text")) < len(absent(dataset, "text") | absent(dataset, "genre"))
    assert list((tmp_path / "here").glob("ml-100k.mask-*.csv"))


def test_the_command_draws_what_the_key_draws(tmp_path, capsys):
    write_mmrec(tmp_path / "raw")
    assert prepare(["mmrec", str(tmp_path / "raw"), "--name", "small", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "small"
    assert prepare(["mask", str(folder), "--rate", "0.5", "--seed", "3"]) == 0
    assert "lacking" in capsys.readouterr().out
    settings = {"topk": [2], "valid_metric": "Recall@2", "metrics": ["Recall"]}
    drawn, from_file = (
        load(folder, missing_modalities=value, **settings)
        for value in ({"rate": 0.5, "seed": 3}, "small.missing-0.5-seed3.csv")
    )
    for modality in drawn.item_features:
        assert absent(drawn, modality) == absent(from_file, modality)
    for rate, sentence in (("0", "hides nothing"), ("1", "hide every modality of every item")):
        with pytest.raises(UserError, match=sentence):
            prepare(["mask", str(folder), "--rate", rate, "--kinds", "all"])
    assert prepare(["check", str(folder)]) == 0
