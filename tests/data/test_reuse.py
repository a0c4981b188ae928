"""A run gets the same data with and without saved datasets and splits, wherever these come from."""

import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import (
    create_dataset,
    data_preparation,
    load_split_dataloaders,
    save_split_dataloaders,
)
from recbole.data.dataset import Dataset
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.trainer import Trainer
from recbole.utils import init_seed

from recbole_mambarec.data import reuse
from recbole_mambarec.data.saved import digest, pack
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import run
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.testing.planted import QUICK, write_planted

MODELS = ("BPR", "LightGCN", "GRU4Rec", "FM", "KGAT", "MambaRec")
LOAD = {
    "inter": ["user_id", "item_id", "rating", "timestamp"],
    "user": ["user_id", "age", "job"],
    "item": ["item_id", "tags", "sizes", "price"],
}
ORDER = {"TO": {"order": "TO", "split": {"LS": "valid_and_test"}, "mode": "full", "group_by": "user"}}
ORDER["RO"] = {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}, "mode": "full", "group_by": "user"}
ORDER["uni"] = ORDER["RO"] | {"mode": {"valid": "uni10", "test": "uni10"}}
SETTINGS = {"epochs": 2, "train_batch_size": 64, "embedding_size": 8, "load_col": LOAD, "show_progress": False}


def write_shop(root: Path, name: str = "shop", seed: int = 0) -> Path:
    """An ordinary dataset of RecBole with every kind of column and file, whose content depends on ``seed``."""
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(25):
        times = 1_600_000_000 + rng.permutation(12)
        for item, time in zip(rng.choice(30, 10, replace=False), times):
            inter.append(f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{time}")
    users = ["user_id:token\tage:float\tjob:token"] + [f"u{u}\t{rng.integers(18, 80)}\tj{u % 4}" for u in range(25)]
    items = ["item_id:token\ttags:token_seq\tsizes:float_seq\tprice:float"]
    items += [f"i{i}\tt{i % 3} t{i % 5}\t{i}.5 {rng.integers(9)}\t{rng.integers(90)}" for i in range(30)]
    kg = ["head_id:token\trelation_id:token\ttail_id:token"] + [
        f"e{i}\tr{i % 2}\te{(i * 7 + 1) % 30}" for i in range(30)
    ]
    link = ["item_id:token\tentity_id:token"] + [f"i{i}\te{i}" for i in range(30)]
    vectors = ["item_number:token\tvector:float_seq"] + [f"i{i}\t{rng.random():.3f} {i}" for i in range(30)]
    files = {"inter": inter, "user": users, "item": items, "kg": kg, "link": link, "vec": vectors}
    for suffix, lines in files.items():
        (folder / f"{name}.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def settings(folder: Path, model: str, **more) -> dict:
    given = {"data_path": str(folder.parent)} | more
    if model == "MambaRec":
        return QUICK | given
    if model == "GRU4Rec":
        given.setdefault("train_neg_sample_args", None)
        given.setdefault("eval_args", ORDER["TO"])
    if model in ("FM", "DIEN"):
        order = ORDER["TO" if model == "DIEN" else "RO"] | {"mode": "labeled"}
        given |= {"eval_args": order, "metrics": ["AUC"], "valid_metric": "AUC"}
    if model == "KGAT":
        given.setdefault("load_col", {"inter": LOAD["inter"], "kg": ["head_id", "relation_id", "tail_id"]})
        given["load_col"] = given["load_col"] | {"link": ["item_id", "entity_id"]}
    return SETTINGS | given


def configuration(folder: Path, model: str, **more) -> Config:
    return Config(model, folder.name, config_dict=settings(folder, model, **more))


def prepared(folder: Path, model: str, **more):
    config = configuration(folder, model, **more)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    return dataset, data_preparation(config, dataset)


def fingerprints(folder: Path, model: str, **more) -> dict[str, str]:
    """All that a run can see of its data: contents, batches of an epoch, and the next random numbers."""
    dataset, loaders = prepared(folder, model, **more)
    found = {"dataset": digest(pack(reuse._contents(dataset))), "random": digest(pack(reuse._random()))}
    for part, loader in zip(("train", "valid", "test"), loaders):
        found[part] = digest(pack(reuse._contents(loader._dataset)))
        if model == "KGAT" and part == "train":
            loader = loader.general_dataloader
        found[f"{part} loader"] = digest(pack([tensors(batch) for batch in loader]))
        assert loader._dataset.config is loader.config is dataset.config
    if hasattr(dataset, "item_features"):
        features = {name: (f.matrix, f.present) for name, f in dataset.item_features.items()}
        found["features"] = digest(pack(features))
        assert all(loader._dataset.item_features is dataset.item_features for loader in loaders)
    return found


def tensors(batch) -> object:
    if isinstance(batch, (tuple, list)):
        return [tensors(part) for part in batch]
    return getattr(batch, "interaction", batch)


@pytest.fixture
def shop(tmp_path):
    return write_shop(tmp_path / "data")


@pytest.fixture
def log(caplog):
    def lines(text: str) -> int:
        """How often a text has been logged since the last call."""
        count = sum(text in re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()) for record in caplog.records)
        caplog.clear()
        return count

    caplog.set_level("INFO")
    return lines


def folder_of(model: str, tmp_path: Path) -> Path:
    return write_planted(tmp_path / "data") if model == "MambaRec" else write_shop(tmp_path / "data")


@pytest.mark.parametrize(
    ("model", "order"),
    [
        ("BPR", "RO"),
        ("BPR", "uni"),
        ("LightGCN", "TO"),
        ("GRU4Rec", "TO"),
        ("FM", "RO"),
        ("KGAT", "RO"),
        ("MambaRec", ""),
    ],
)
def test_what_is_read_back_equals_what_would_be_built(tmp_path, log, model, order):
    folder = folder_of(model, tmp_path)
    more = {"eval_args": ORDER[order]} if order else {}
    fresh = fingerprints(folder, model, **more)
    saving = fingerprints(folder, model, save_dataset=True, save_dataloaders=True, **more)
    assert saving == fresh, "to save changes nothing"
    assert log("Saving") == 2
    elsewhere = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, elsewhere)
    shutil.rmtree(folder)
    reused = fingerprints(elsewhere, model, learning_rate=0.5, train_batch_size=64, **more)
    assert log("Load filtered dataset from") == 1
    expected = fingerprints(elsewhere, model, checkpoint_dir="none", learning_rate=0.5, train_batch_size=64, **more)
    assert reused == expected
    if model != "MambaRec":
        assert reused == fresh
    assert log("Load") == 0


def test_the_split_is_read_back_on_its_own(shop, log):
    fingerprints(shop, "BPR", save_dataloaders=True, eval_args=ORDER["RO"])
    fingerprints(shop, "BPR", eval_args=ORDER["RO"])
    assert log("Load split dataloaders from") == 1


def test_models_share_a_dataset(shop, log):
    prepared(shop, "BPR", save_dataset=True)
    prepared(shop, "LightGCN", n_layers=1, learning_rate=0.1, epochs=7)
    assert log("Load filtered dataset from") == 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("suffix", ["inter", "item"])
def test_changed_files_are_read_again(tmp_path, log, model, suffix):
    folder = folder_of(model, tmp_path)
    prepared(folder, model, save_dataset=True, save_dataloaders=True)
    log("")
    path = next(path for path in sorted(folder.iterdir()) if path.name.endswith(suffix))
    lines = path.read_text().splitlines(keepends=True)
    times = path.stat()
    path.write_text("".join([lines[0], *reversed(lines[1:])]))  # as long as before ...
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # ... and as old
    after = fingerprints(folder, model)
    assert log("built again") >= 1
    assert after == fingerprints(folder, model, checkpoint_dir="none")


@pytest.mark.parametrize("changed", ["user", "vec"])
def test_other_files_of_the_dataset_count(shop, changed):
    more = {
        "load_col": LOAD | {"vec": ["item_number", "vector"]},
        "additional_feat_suffix": ["vec"],
        "alias_of_item_id": ["item_number"],
    }
    before = fingerprints(shop, "BPR", save_dataset=True, save_dataloaders=True, **more)
    text = (shop / f"shop.{changed}").read_text()
    (shop / f"shop.{changed}").write_text(text.replace("2", "3"))
    after = fingerprints(shop, "BPR", **more)
    assert after != before and after == fingerprints(shop, "BPR", checkpoint_dir="none", **more)


def test_changed_arrays_count(tmp_path):
    folder = write_planted(tmp_path)
    before = fingerprints(folder, "MambaRec", save_dataset=True, save_dataloaders=True)
    np.save(folder / "planted.image.npy", np.load(folder / "planted.image.npy") * 2)
    after = fingerprints(folder, "MambaRec")
    assert after["features"] != before["features"]
    assert after == fingerprints(folder, "MambaRec", checkpoint_dir="none")


CHANGES = {
    "seed": 7,
    "rm_dup_inter": "first",
    "val_interval": {"rating": "[3,inf)"},
    "user_inter_num_interval": "[9,inf)",
    "item_inter_num_interval": "[6,inf)",
    "threshold": {"rating": 3},
    "unload_col": {"user": ["job"]},
    "unused_col": {"inter": ["rating"]},
    "seq_len": {"tags": 1},
    "normalize_all": False,
    "numerical_features": ["age"],
    "seq_separator": ".",
    "eval_args": ORDER["RO"] | {"split": {"RS": [0.5, 0.2, 0.3]}},
    "train_neg_sample_args": {"distribution": "popularity", "sample_num": 2, "alpha": 0.5, "dynamic": False},
    "train_batch_size": 16,
    "eval_batch_size": 60,
    "repeatable": True,
    "mask_valid_in_test": False,
    "reproducibility": False,
    "shuffle": False,
}


@pytest.mark.parametrize("key", CHANGES)
def test_other_settings_find_no_stale_data(shop, key):
    base = {"load_col": {"inter": LOAD["inter"], "item": ["item_id", "tags"]} if key == "seq_separator" else None}
    base |= {"normalize_all": True} if key == "normalize_all" else {}
    fingerprints(shop, "BPR", save_dataset=True, save_dataloaders=True, **base)
    more = base | {key: CHANGES[key]}
    assert fingerprints(shop, "BPR", **more) == fingerprints(shop, "BPR", checkpoint_dir="none", **more)


@pytest.mark.parametrize("key", ["MAX_ITEM_LIST_LENGTH", "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX"])
def test_other_settings_of_sequences_find_no_stale_data(shop, key):
    fingerprints(shop, "GRU4Rec", save_dataset=True, save_dataloaders=True)
    more = {key: {"MAX_ITEM_LIST_LENGTH": 3}.get(key, "_other")}
    assert fingerprints(shop, "GRU4Rec", **more) == fingerprints(shop, "GRU4Rec", checkpoint_dir="none", **more)


def test_a_dataset_of_another_class_is_not_used(shop):
    prepared(shop, "BPR", save_dataset=True)
    shutil.copy("saved/shop-Dataset.pth", "saved/shop-SequentialDataset.pth")
    dataset, _ = prepared(shop, "GRU4Rec")
    assert type(dataset).__name__ == "SequentialDataset"
    assert fingerprints(shop, "GRU4Rec") == fingerprints(shop, "GRU4Rec", checkpoint_dir="none")


def test_changed_code_builds_the_data_again(shop, log, monkeypatch):
    prepared(shop, "BPR", save_dataset=True, save_dataloaders=True)
    monkeypatch.setattr(reuse, "code_hash", lambda: "another version")
    prepared(shop, "BPR")
    assert log("other versions of RecBole, this package or their libraries") == 2


def test_a_split_by_other_random_numbers_is_not_used(shop, log):
    """Without init_seed, or after other draws, RecBole splits differently."""
    prepared(shop, "BPR", save_dataloaders=True, eval_args=ORDER["RO"])
    config = configuration(shop, "BPR", eval_args=ORDER["RO"])
    torch.manual_seed(1)
    first = data_preparation(config, create_dataset(config))
    assert log("drawn with other random numbers") == 1
    torch.manual_seed(1)
    config["checkpoint_dir"] = "none"
    again = data_preparation(config, create_dataset(config))
    for a, b in zip(first, again):
        assert torch.equal(a._dataset.inter_feat["item_id"], b._dataset.inter_feat["item_id"])


def test_a_dataset_that_was_changed_by_hand_is_split_again(shop):
    prepared(shop, "BPR", save_dataset=True, save_dataloaders=True)
    config = configuration(shop, "BPR")
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    dataset.inter_feat = dataset.inter_feat[dataset.inter_feat["rating"] > 2].reset_index(drop=True)
    parts = data_preparation(config, dataset)
    assert sum(len(part._dataset) for part in parts) == len(dataset) < 250


# ------------------------------------------------------------------------------------------------------------
# several processes


@pytest.fixture
def rank(monkeypatch):
    """The configuration of process r of two, without starting processes."""

    def be(number: int | None) -> dict:
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *_: number)
        return {} if number is None else {"single_spec": False, "local_rank": number, "world_size": 2}

    return be


def sizes(folder, model, given, **more):
    """The rows in the training loader, and the users that are tested."""
    config = configuration(folder, model, **more)
    config.final_config_dict.update(given)
    init_seed(config["seed"], True)
    train, _, test = data_preparation(config, create_dataset(config))
    if given and train.shuffle:
        train.sampler.set_epoch(1)
    return sum(len(batch) for batch in train), sum(len(batch[0]) for batch in test)


@pytest.mark.parametrize("model", ["BPR", "MambaRec"])
def test_each_process_has_its_own_loaders(tmp_path, rank, model):
    folder = folder_of(model, tmp_path)
    saving = {"save_dataset": True, "save_dataloaders": True}
    alone, half = sizes(folder, model, {}), sizes(folder, model, rank(0))
    assert half[0] == pytest.approx(alone[0] / 2, abs=1)
    assert sizes(folder, model, rank(1), **saving) == half
    assert not any(Path("saved").glob("*.pth")), "the first process writes"
    assert sizes(folder, model, rank(0), **saving) == half
    assert any(Path("saved").glob("*dataloader.pth"))
    assert sizes(folder, model, rank(None)) == alone
    shutil.rmtree("saved")
    assert sizes(folder, model, rank(None), **saving) == alone
    assert sizes(folder, model, rank(1), **saving) == sizes(folder, model, rank(0)) == half


# ------------------------------------------------------------------------------------------------------------
# files that are none of ours


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def foreign(kind: str) -> bytes:
    return {"bomb": pickle.dumps(Bomb()), "list": pickle.dumps([1]), "empty": b"", "text": b"data"}[kind]


@pytest.mark.parametrize("content", ["bomb", "list", "empty", "text", "half", "other contents"])
@pytest.mark.parametrize("file", ["shop-Dataset.pth", "shop-for-BPR-dataloader.pth"])
def test_foreign_and_damaged_files_are_not_read(shop, log, file, content):
    expected = fingerprints(shop, "BPR", save_dataset=True, save_dataloaders=True)
    path = Path("saved", file)
    if content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "other contents":
        state = torch.load(path, weights_only=True)
        torch.save(state | {"contents": ["object", "os", "system", ["dict", []]]}, path)
    else:
        path.write_bytes(foreign(content))
    log("")
    assert fingerprints(shop, "BPR") == expected
    assert log("is built again, not read from") == 1
    key = "dataset_save_path" if "Dataset" in file else "dataloaders_save_path"
    with pytest.raises(UserError, match=f"{key} names .*{file}, which cannot be used .*leave {key} out"):
        prepared(shop, "BPR", **{key: str(path)})
    assert not Path("exploded").exists()
    assert fingerprints(shop, "BPR", save_dataset=True, save_dataloaders=True) == expected
    assert fingerprints(shop, "BPR", **{key: str(path)}) == expected, "written again, it can be named"


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_a_named_file_is_used_or_refused(shop, tmp_path, log, key):
    prepared(shop, "BPR", save_dataset=True, save_dataloaders=True)
    file = {"dataset_save_path": "shop-Dataset.pth"}.get(key, "shop-for-BPR-dataloader.pth")
    named = tmp_path / "kept" / file
    shutil.move("saved", named.parent)
    log("")
    prepared(shop, "BPR", **{key: str(named)})
    assert log("Load") == 1
    write_shop(shop.parent, seed=1)
    with pytest.raises(UserError, match=f"{key} names .*the data have changed since it was written"):
        prepared(shop, "BPR", **{key: str(named)})
    prepared(shop, "BPR", **{key: "nowhere.pth"})
    assert log(f"{key} names nowhere.pth, which does not exist") == 1


def test_data_are_saved_only_where_they_are_built(shop):
    dataset, loaders = prepared(shop, "BPR", save_dataset=True)
    with pytest.raises(UserError, match="set save_dataset=True"):
        dataset.save()
    with pytest.raises(UserError, match="set save_dataloaders=True"):
        save_split_dataloaders(dataset.config, loaders)
    assert load_split_dataloaders(dataset.config) is None


def test_datasets_of_other_packages_are_not_saved(shop, log, monkeypatch):
    class BPRDataset(Dataset):
        pass

    monkeypatch.setattr("recbole.data.dataset.BPRDataset", BPRDataset, raising=False)
    dataset, _ = prepared(shop, "BPR", save_dataset=True, save_dataloaders=True)
    assert type(dataset) is BPRDataset and not Path("saved").exists()
    assert log("BPRDataset is a dataset of another package") == 2


def test_a_dataset_with_a_sampler_is_not_saved(shop, log):
    batches = []
    for saving in ({}, {"save_dataset": True, "save_dataloaders": True}):
        _, (train, *_) = prepared(shop, "DIEN", **saving)
        batches.append(digest(pack([tensors(batch) for batch in train])))
    assert batches[0] == batches[1]
    assert log("a SeqSampler, which cannot be expressed as plain values") == 2


# ------------------------------------------------------------------------------------------------------------
# whole runs


def scores(folder, model, **more):
    result = run_recbole(model, folder.name, config_dict=settings(folder, model, **more))
    return result["best_valid_result"], result["test_result"]


@pytest.mark.parametrize("model", ["BPR", "GRU4Rec"])
def test_a_run_after_the_data_changed(shop, model):
    before = scores(shop, model, save_dataset=True, save_dataloaders=True)
    write_shop(shop.parent, seed=5)
    after = scores(shop, model)
    assert after != before and after == scores(shop, model, checkpoint_dir="none")


@pytest.mark.parametrize("saving", [{}, {"save_dataset": True}, {"save_dataset": True, "save_dataloaders": True}])
def test_a_resumed_run_equals_a_whole_one(tmp_path, saving):
    folder = write_planted(tmp_path)
    more = {"valid_metric": "NDCG@20", "learning_rate": 0.002}
    whole = scores(folder, "MambaRec", epochs=5, checkpoint_dir="whole", **more)
    scores(folder, "MambaRec", epochs=2, checkpoint_dir="parts", **more, **saving)
    (file,) = Path("parts").glob("MambaRec-*.pth")
    assert (
        scores(folder, "MambaRec", epochs=5, checkpoint_dir="parts", resume_from=str(file), **more, **saving) == whole
    )


def test_a_recorded_run_finds_no_stale_data(shop):
    """Its key claims to cover the content of the files."""
    overrides = settings(shop, "BPR") | {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    scores(shop, "BPR", **(overrides | {"save_dataset": True, "save_dataloaders": True}))
    write_shop(shop.parent, seed=5)
    records = []
    for folder in ("saved", "none"):
        plan = resolve("BPR", shop.name, overrides=overrides | {"checkpoint_dir": folder})
        records.append(run.execute(plan, "results/runs.jsonl", per_user=False))
    assert [record.status for record in records] == ["finished"] * 2
    assert records[0].key == records[1].key and records[0].test == records[1].test


def test_a_checkpoint_is_loaded_with_its_data(shop):
    given = settings(shop, "BPR", save_dataset=True, save_dataloaders=True)
    result = run_recbole("BPR", shop.name, config_dict=given)
    (file,) = Path("saved").glob("BPR-*.pth")
    config, model, _, train, _, test = load_data_and_model(str(file))
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train)
    assert trainer.evaluate(test, load_best_model=False) == result["test_result"]
