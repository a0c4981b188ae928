"""A training continues with its own configuration and data, or not at all."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mambarec.checkpoint import read_checkpoint
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import QUICK, write_planted

MODELS = ["MambaRec", "BM3", "BPR", "LightGCN"]


def build(folder, model, **overrides):
    settings = {"data_path": str(folder.parent), "state": "ERROR", "strict_keys": False} | QUICK | {"epochs": 2}
    config = Config(model, folder.name, config_dict=settings | overrides)
    init_seed(config["seed"], True)
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    return trainer, train, valid, test


def checkpoint(folder, model, **overrides):
    trainer, train, valid, _ = build(folder, model, checkpoint_dir="first", **overrides)
    trainer.fit(train, valid, verbose=False)
    return trainer.saved_model_file


def resumed(folder, model, file, **overrides):
    """A trainer that has continued from the file."""
    trainer, train, valid, _ = build(folder, model, **{"epochs": 4} | overrides)
    trainer.resume_checkpoint(file)
    trainer.saved_model_file = "second.pth"
    trainer.fit(train, valid, verbose=False)
    return trainer


@pytest.fixture
def folder(tmp_path):
    return write_planted(tmp_path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("key", "there", "here"),
    [
        ("valid_metric", "Recall@20", "NDCG@10"),
        ("seed", 999, 7),
        ("train_batch_size", 128, 64),
        ("learner", "adam", "adamw"),
        ("repeatable", False, True),
        ("eval_args", {"mode": "full"}, {"mode": "uni20"}),
    ],
)
def test_another_training_is_refused(folder, model, key, there, here):
    file = checkpoint(folder, model, **{key: there})
    content = Path(file).read_bytes()
    with pytest.raises(
        UserError, match=rf"was written with {key} .* cannot be continued with .*a new training"
    ) as caught:
        resumed(folder, model, file, **{key: here})
    assert "\n" not in str(caught.value) and file in str(caught.value)
    assert not Path("second.pth").exists() and Path(file).read_bytes() == content


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("MambaRec", {"mmd_weight": 0.7}),
        ("LightGCN", {"n_layers": 1}),
        ("BPR", {"train_neg_sample_args": {"distribution": "popularity"}}),
    ],
)
def test_other_keys_of_the_model_and_its_negatives_are_refused(folder, model, settings):
    file = checkpoint(folder, model)
    with pytest.raises(UserError, match=f"was written with {next(iter(settings))} "):
        resumed(folder, model, file, **settings)


def test_parameters_that_happen_to_fit_another_model(folder):
    file = checkpoint(folder, "BPR")
    with pytest.raises(UserError, match="written with model 'BPR' and cannot be continued with 'LightGCN'"):
        resumed(folder, "LightGCN", file)


def test_the_metric_of_a_lower_is_better_run(tmp_path):
    root = tmp_path / "rated"
    root.mkdir()
    lines = [f"u{u}\ti{(u + 3 * k) % 17}\t{1 + (u * k) % 5}\n" for u in range(12) for k in range(8)]
    (root / "rated.inter").write_text("user_id:token\titem_id:token\trating:float\n" + "".join(lines), encoding="utf-8")
    values = {"metrics": ["RMSE", "AUC"], "threshold": {"rating": 3}, "valid_metric": "AUC", "protocol": "recbole"}
    values |= {"eval_args": {"mode": "labeled", "split": {"RS": [0.6, 0.2, 0.2]}}, "topk": [5]}
    values |= {"load_col": {"inter": ["user_id", "item_id", "rating"]}, "eval_batch_size": 4096}
    file = checkpoint(root, "FM", **values)
    with pytest.raises(UserError, match=r"valid_metric 'auc' .* 'rmse'"):
        resumed(root, "FM", file, **values | {"valid_metric": "RMSE"})


@pytest.mark.parametrize("model", MODELS)
def test_keys_without_effect_on_the_epochs_may_differ(folder, model, tmp_path, caplog):
    whole = build(folder, model, epochs=4)
    whole[0].fit(*whole[1:3], verbose=False)
    file = checkpoint(folder, model)
    moved = tmp_path / "moved" / folder.name
    shutil.copytree(folder, moved)
    free = {"stopping_step": 3, "metrics": ["MRR", "Recall"], "topk": [5, 20], "checkpoint_dir": "elsewhere"}
    caplog.clear()
    trainer = resumed(moved, model, file, **free)
    assert sorted(trainer.train_loss_dict) == [2, 3]
    assert not [r for r in caplog.records if "was written with" in r.getMessage()]
    if model in ("MambaRec", "BM3"):  # RecBole's checkpoints do not hold the state of the generators
        for epoch in (2, 3):
            assert trainer.train_loss_dict[epoch] == pytest.approx(whole[0].train_loss_dict[epoch], rel=1e-6)


def test_a_mask_may_have_moved_but_not_changed(folder, tmp_path):
    (folder / "mask.csv").write_text("item_id,modality\ni3,image\n")
    file = checkpoint(folder, "MambaRec", missing_modalities="mask.csv")
    shutil.copy(folder / "mask.csv", tmp_path / "moved.csv")
    resumed(folder, "MambaRec", file, missing_modalities=str(tmp_path / "moved.csv"))
    (tmp_path / "moved.csv").write_text("item_id,modality\ni4,image\n")
    with pytest.raises(UserError, match="was written with missing_modalities"):
        resumed(folder, "MambaRec", file, missing_modalities=str(tmp_path / "moved.csv"))


@pytest.mark.parametrize("model", MODELS)
def test_another_learning_rate_is_used_with_a_warning(folder, model, caplog):
    constant = {"lr_boost": 1.0, "lr_decay_rate": 1.0} if model in ("MambaRec", "BM3") else {}
    file = checkpoint(folder, model, **constant)
    rates = []
    trainer, train, valid, _ = build(folder, model, epochs=3, learning_rate=0.002, weight_decay=0.1, **constant)
    trainer.resume_checkpoint(file)
    said = [r.getMessage() for r in caplog.records if "is not that of an uninterrupted run" in r.getMessage()]
    assert [text.split("was written with ")[1].split()[0] for text in said] == ["learning_rate", "weight_decay"]
    step = trainer.optimizer.step

    def noted(*args, **kwargs):
        rates.append((trainer.optimizer.param_groups[0]["lr"], trainer.optimizer.param_groups[0]["weight_decay"]))
        return step(*args, **kwargs)

    trainer.optimizer.step = noted
    trainer.fit(train, valid, verbose=False, saved=False)
    assert set(rates) == {(0.002, 0.1)}


def exchange(folder, one, other):
    """As many interactions of the same users and items: those of two parts are exchanged, user by user."""
    paths = [folder / f"{folder.name}.{part}.inter" for part in (one, other)]
    head, *_ = paths[0].read_text(encoding="utf-8").splitlines()
    parts = [
        dict(reversed([line.split("\t") for line in p.read_text(encoding="utf-8").splitlines()[1:]])) for p in paths
    ]
    texts = [path.read_text(encoding="utf-8").splitlines()[1:] for path in paths]
    for user in parts[0]:
        pairs = [f"{user}\t{part[user]}" for part in parts]
        for lines, old, new in zip(texts, pairs, reversed(pairs)):
            lines[lines.index(old)] = new
    for path, lines in zip(paths, texts):
        path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("parts", [("train", "test"), ("valid", "test")])
def test_other_interactions_of_the_same_shape_are_refused(folder, model, parts):
    file = checkpoint(folder, model)
    exchange(folder, *parts)
    with pytest.raises(UserError, match="was written in a training on other data"):
        resumed(folder, model, file)
    assert not Path("second.pth").exists()


def test_other_features_are_refused(folder):
    file = checkpoint(folder, "MambaRec")
    path = folder / f"{folder.name}.text.npy"
    np.save(path, np.load(path)[:, ::-1])
    with pytest.raises(UserError, match="was written in a training on other data"):
        resumed(folder, "MambaRec", file)


def test_a_checkpoint_without_a_fingerprint_is_continued(folder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("recbole_mambarec.trainer.data_of", lambda config: None)
        file = checkpoint(folder, "MambaRec")
    assert read_checkpoint(file)["resume"]["data"] is None
    assert sorted(resumed(folder, "MambaRec", file).train_loss_dict) == [2, 3]


def test_the_checkpoint_of_resume_from_is_checked_as_well(folder):
    file = checkpoint(folder, "MambaRec")
    trainer, train, valid, _ = build(folder, "MambaRec", epochs=4, resume_from=file, valid_metric="NDCG@20")
    with pytest.raises(UserError, match="valid_metric 'recall@20' and cannot be continued with 'ndcg@20'"):
        trainer.fit(train, valid, verbose=False)


def test_a_full_disk(folder, monkeypatch):
    """One sentence, and the last checkpoint stays; any other failure of writing is shown as it is."""
    file = Path(checkpoint(folder, "FREEDOM"))
    before = file.read_bytes()

    def full(state, place):
        Path(place).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RuntimeError, match="enforce fail"):
        resumed(folder, "FREEDOM", file)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=3 << 10))
    trainer, train, valid, _ = build(folder, "FREEDOM", epochs=4)
    trainer.saved_model_file = str(file)
    with pytest.raises(UserError, match="could not be written, because its disk has 0 MiB left: make room"):
        trainer.fit(train, valid, verbose=False)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
