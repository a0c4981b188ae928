"""Pairs that are in more than one split, and filters of a split that comes in files."""

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_mambarec.checkpoint import plain
from recbole_mambarec.errors import UserError
from recbole_mambarec.restored import config_from_checkpoint
from recbole_mambarec.testing.planted import QUICK, write_planted

RANDOM = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
ORDINARY = {"show_progress": False, "topk": [5], "metrics": ["Recall"], "valid_metric": "Recall@5", "load_col": None}
PARTS = ["a", "b", "c"]


def write(root, repeats=0, name="plain", seed=0):
    """Interactions of 30 users with 8 of 40 items each, ``repeats`` of them twice, as an ordinary dataset."""
    rng = np.random.default_rng(seed)
    pairs = [(user, item) for user in range(30) for item in rng.choice(40, 8, replace=False)]
    pairs += [pairs[n] for n in rng.permutation(len(pairs))[:repeats]]
    folder = root / name
    folder.mkdir()
    lines = [f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{n}\n" for n, (user, item) in enumerate(pairs)]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / f"{name}.inter").write_text(head + "".join(lines[n] for n in rng.permutation(len(lines))))
    return folder


def write_parts(root, shared=0, name="parts", seed=0):
    """The same in three files; ``shared`` lines of training are also in test."""
    folder = write(root, name=name, seed=seed)
    head, *lines = (folder / f"{name}.inter").read_text().splitlines(keepends=True)
    (folder / f"{name}.inter").unlink()
    parts = [lines[:180], lines[180:210], lines[210:] + lines[:shared]]
    for part, content in zip(PARTS, parts):
        (folder / f"{name}.{part}.inter").write_text(head + "".join(content))
    return folder


def load(folder, model="BPR", **values):
    config = Config(model, folder.name, config_dict=ORDINARY | {"data_path": str(folder.parent)} | values)
    init_seed(1, True)
    dataset = create_dataset(config)
    return data_preparation(config, dataset)


def shared_pairs(parts):
    """Distinct pairs that are also in an earlier part."""
    sets = [set(zip(*(part.dataset.inter_feat[field].tolist() for field in ("user_id", "item_id")))) for part in parts]
    return len(sets[1] & sets[0]) + len(sets[2] & (sets[0] | sets[1]))


# ---------------------------------------------------------------------------- repeated pairs


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "Pop", "MultiVAE"])
@pytest.mark.parametrize(
    "arguments",
    [
        RANDOM,
        RANDOM | {"group_by": None},
        RANDOM | {"order": "TO"},
        RANDOM | {"split": {"LS": "valid_and_test"}},
        RANDOM | {"split": {"TS": [0.8, 0.1, 0.1]}, "order": "TO"},
        RANDOM | {"mode": "uni10"},
    ],
)
def test_repeated_pairs_under_any_split(tmp_path, model, arguments):
    folder = write(tmp_path, repeats=120)
    with pytest.raises(UserError, match=r"of 360 interactions of 'plain' are in more than one split \(.*rm_dup_inter"):
        load(folder, model, eval_args=arguments)
    parts = load(folder, model, eval_args=arguments, rm_dup_inter="first")
    assert shared_pairs(parts) == 0 and sum(len(part.dataset) for part in parts) == 240


def test_the_numbers_of_the_sentence(tmp_path):
    folder = write(tmp_path, repeats=200)
    expected = shared_pairs(load(folder, eval_args=RANDOM, repeatable=True))
    with pytest.raises(UserError, match=f"^{expected} of 440 interactions of .*in test are in training"):
        load(folder, eval_args=RANDOM)


def test_a_model_of_ours(tmp_path):
    folder = write(tmp_path, repeats=120)
    (folder / "plain.item").write_text("item_id:token\n" + "".join(f"i{n}\n" for n in range(40)))
    np.save(folder / "plain.image.npy", np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
    with pytest.raises(UserError, match="keep one interaction of each pair"):
        load(folder, "VBPR", eval_args=RANDOM)


def test_a_few_repeated_pairs_give_a_warning(tmp_path, caplog):
    # the repeated interactions are the latest ones
    parts = load(write(tmp_path, repeats=2), eval_args=RANDOM | {"split": {"LS": "test_only"}, "order": "TO"})
    assert shared_pairs(parts) == 2
    assert "2 of 242 interactions of 'plain' are in more than one split" in caplog.text


def test_data_without_repeated_pairs_gives_no_warning(tmp_path, caplog):
    load(write(tmp_path), eval_args=RANDOM)
    load(write_parts(tmp_path), benchmark_filename=PARTS)
    assert "more than one split" not in caplog.text


def test_repeated_pairs_are_accepted_where_they_are_intended(tmp_path, caplog):
    folder = write(tmp_path, repeats=120)
    assert shared_pairs(load(folder, eval_args=RANDOM, repeatable=True)) > 10
    load(
        folder,
        "SASRec",
        eval_args=RANDOM | {"split": {"LS": "valid_and_test"}, "order": "TO"},
        train_neg_sample_args=None,
    )
    assert "more than one split" not in caplog.text
    # one pair, two labels
    labels = {"threshold": {"rating": 3}, "metrics": ["AUC"], "valid_metric": "AUC"}
    load(folder, "FM", eval_args=RANDOM | {"mode": "labeled"}, **labels)
    assert "of 360 interactions of 'plain' are in more than one split" in caplog.text


def test_a_split_in_files_of_an_ordinary_dataset(tmp_path, caplog):
    load(write_parts(tmp_path, shared=2, name="few"), benchmark_filename=PARTS)
    assert (
        "2 of 242 interactions of 'few' are in more than one split (pairs of user and item: 2 of 32 in test"
        in caplog.text
    )
    with pytest.raises(UserError, match=r"20 of 260.*: 20 of 50 in test are in training\): .*split the data again"):
        load(write_parts(tmp_path, shared=20), benchmark_filename=PARTS)


# ---------------------------------------------------------------------------- filters of a split in files

FILTERS = {
    "rm_dup_inter": "first",
    "val_interval": {"rating": "[3,inf)"},
    "user_inter_num_interval": "[5,inf)",
    "item_inter_num_interval": "[2,9]",
}


@pytest.mark.parametrize("key", FILTERS)
@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_filters_of_a_split_in_files(tmp_path, key, model):
    folder = write_parts(tmp_path)
    # nor does a saved dataset come to a run that asks for a filter
    load(folder, model, benchmark_filename=PARTS, save_dataset=True)
    with pytest.raises(UserError, match=rf"^{key}: .* has no effect on 'parts', whose split .* files \(a, b, c\)"):
        load(folder, model, benchmark_filename=PARTS, **{key: FILTERS[key]})


@pytest.mark.parametrize("key", FILTERS)
def test_filters_of_a_prepared_split(tmp_path, key):
    folder = write_planted(tmp_path)
    values = QUICK | {"data_path": str(tmp_path), key: FILTERS[key]}
    with pytest.raises(UserError, match=f"{key}: .* has no effect on 'planted'"):
        create_dataset(Config("VBPR", folder.name, config_dict=values))


def test_the_command_line_refuses_before_training(tmp_path, monkeypatch, capsys):
    from recbole_mambarec.cli import run_recbole

    write_planted(tmp_path)
    arguments = ["--model=BPR", "--dataset=planted", f"--data_path={tmp_path}", "--item_inter_num_interval=[3,inf)"]
    monkeypatch.setattr("sys.argv", ["run_recbole.py", *arguments])
    with pytest.raises(UserError, match="leave it out, or filter the data before splitting"):
        run_recbole(arguments)


def test_values_that_filter_nothing_pass(tmp_path):
    values = {"rm_dup_inter": None, "val_interval": {}, "user_inter_num_interval": "[0, inf)"}
    values |= {"item_inter_num_interval": "(0,inf)", "filter_inter_by_user_or_item": False}
    parts = load(write_parts(tmp_path), benchmark_filename=PARTS, **values)
    assert [len(part.dataset) for part in parts] == [180, 30, 30]


def test_a_checkpoint_of_a_split_in_files_is_read_back(tmp_path):
    folder = write_planted(tmp_path)
    config = Config("VBPR", folder.name, config_dict=QUICK | {"data_path": str(tmp_path)})
    again = config_from_checkpoint(plain(config.final_config_dict))
    assert len(create_dataset(again)) == 480


def test_unlisted_users_of_a_split_in_files_give_a_warning(tmp_path, caplog):
    folder = write_parts(tmp_path)
    (folder / "parts.user").write_text("user_id:token\n" + "".join(f"u{n}\n" for n in range(29)))
    parts = load(folder, benchmark_filename=PARTS)
    assert sum(len(part.dataset) for part in parts) == 240
    assert "8 interactions of 'parts' have a user that parts.user does not list: they are kept" in caplog.text
