"""Orders by time: what is tested on and in which order histories are read, against computations of their own."""

import pickle
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model

from recbole_mambarec.data.time_order import TimedInteraction, times_of
from recbole_mambarec.errors import UserError

LAST_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
# one unit at a moment of this century: float32 has steps of 128 there, and float64 of 256 for nanoseconds
SECONDS, MILLISECONDS, NANOSECONDS = 1_600_000_000, 1_600_000_000_000, 1_600_000_000_000_000_000


def rows_of(users=12, per_user=7, items=30, start=SECONDS, seed=0):
    """(user, item, time) in a random order; a user's times are one unit apart."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        chosen = rng.choice(items, per_user, replace=False)
        offset = int(rng.integers(500))
        rows += [(f"u{user}", f"i{item}", start + offset + n) for n, item in enumerate(chosen)]
    return [rows[n] for n in rng.permutation(len(rows))]


def write(root, rows, name="timed", time="timestamp:float", arrays=False):
    """An ordinary RecBole dataset, or one with arrays."""
    folder = root / name
    folder.mkdir(exist_ok=True)
    lines = [f"user_id:token\titem_id:token\t{time}", *("\t".join(map(str, row)) for row in rows)]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")
    if arrays:
        items = sorted({item for _, item, _ in rows})
        (folder / f"{name}.item").write_text("\n".join(["item_id:token", *items]) + "\n")
        np.save(folder / f"{name}.image.npy", np.random.default_rng(0).normal(size=(len(items), 4)).astype(np.float32))
    return folder


def split(folder, model="BPR", **values):
    """The built parts, each a list of (user, item), and the loaders."""
    base = {"data_path": str(folder.parent), "show_progress": False, "eval_args": LAST_OUT, "topk": [5]}
    base |= {"metrics": ["Recall"], "valid_metric": "Recall@5"}
    # columns are loaded by name, or all of them
    base |= {"load_col": None}
    config = Config(model, folder.name, config_dict=base | values)
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    return [pairs(loader.dataset) for loader in loaders], loaders


def pairs(dataset):
    ids = [dataset.field2id_token[field] for field in ("user_id", "item_id")]
    columns = [dataset.inter_feat[field].tolist() for field in ("user_id", "item_id")]
    return [(ids[0][user], ids[1][item]) for user, item in zip(*columns)]


def in_order(rows):
    """user -> items by time; equal times as in the file."""
    items = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        items[user].append(item)
    return items


def last_of(rows):
    return {(user, items[-1]) for user, items in in_order(rows).items()}


@pytest.mark.parametrize("start", [SECONDS, MILLISECONDS, NANOSECONDS])
@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MambaRec", "Pop"])
def test_the_last_of_each_user_is_tested_on(tmp_path, model, start):
    rows = rows_of(start=start)
    (train, valid, test), _ = split(write(tmp_path, rows, arrays=model == "MambaRec"), model)
    ordered = in_order(rows)
    assert set(test) == last_of(rows)
    assert set(valid) == {(user, items[-2]) for user, items in ordered.items()}
    for user, items in ordered.items():
        assert [item for u, item in train if u == user] == items[:-2]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([0, -SECONDS, SECONDS, MILLISECONDS, NANOSECONDS]),
    times=st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=9), min_size=3, max_size=8),
    kind=st.sampled_from(["float", "token"]),
    seed=st.integers(0, 9),
)
def test_any_times_equal_ones_included(tmp_path, start, times, kind, seed):
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{item}", start + offset)
        for user, offsets in enumerate(times)
        for item, offset in zip(rng.choice(20, len(offsets), replace=False), offsets)
    ]
    rows = [rows[n] for n in rng.permutation(len(rows))]
    ratios = {"split": {"RS": [0.5, 0.25, 0.25]}, "order": "TO", "group_by": "user", "mode": "full"}
    parts, _ = split(write(tmp_path, rows, time=f"when:{kind}"), TIME_FIELD="when", eval_args=ratios)
    for user, items in in_order(rows).items():
        assert [item for part in parts for u, item in part if u == user] == items
    together, _ = split(tmp_path / "timed", TIME_FIELD="when", eval_args=ratios | {"group_by": None})
    # the loaders of validation and test have brought each user's rows together
    left = [row[:2] for row in sorted(rows, key=lambda row: row[2])]
    for part in together:
        assert sorted(part) == sorted(left[: len(part)])
        left = left[len(part) :]


@pytest.mark.parametrize("start", [SECONDS, NANOSECONDS])
@pytest.mark.parametrize("order", ["TO", "RO"])
def test_the_split_by_a_moment(tmp_path, start, order):
    rows = rows_of(users=20, start=start)
    arguments = {"split": {"TS": [0.7, 0.1, 0.2]}, "order": order, "group_by": "user", "mode": "full"}
    (train, valid, test), _ = split(write(tmp_path, rows), eval_args=arguments)
    times = sorted(time for *_, time in rows)
    # the interpolated percentile lies from this one on and below the next
    last = times[int(np.floor(0.8 * (len(times) - 1)))]
    assert set(test) == {(user, item) for user, item, time in rows if time > last}
    for user, items in in_order([row for row in rows if row[2] <= last]).items():
        assert [item for u, item in train + valid if u == user] == items


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "DIEN"])
@pytest.mark.parametrize("start", [SECONDS, NANOSECONDS])
def test_histories_are_read_in_the_order_of_the_file(tmp_path, model, start):
    rows = rows_of(start=start)
    values = {"train_neg_sample_args": None}
    if model == "DIEN":
        folder = write(tmp_path, [(*row, 1.0) for row in rows], time="timestamp:float\tlabel:float")
        values |= {"LABEL_FIELD": "label", "metrics": ["AUC"], "valid_metric": "AUC"}
        values |= {"eval_args": LAST_OUT | {"mode": "labeled"}}
    else:
        folder = write(tmp_path, rows)
    parts, loaders = split(folder, model, **values)
    ordered = in_order(rows)
    assert set(parts[2]) == last_of(rows)
    for loader in loaders:
        data = loader.dataset
        tokens = data.field2id_token["item_id"]
        for (user, item), history, length in zip(
            pairs(data), data.inter_feat["item_id_list"].tolist(), data.inter_feat["item_length"].tolist()
        ):
            items = ordered[user]
            assert [tokens[n] for n in history[:length]] == items[: items.index(item)]


@pytest.mark.parametrize(
    "change",
    [
        {"normalize_field": ["timestamp"]},
        {"normalize_all": True},
        {"numerical_features": ["timestamp"]},
        {"numerical_features": ["timestamp"], "discretization": {"timestamp": {"method": "ED", "bucket": 2}}},
        {"unused_col": {"inter": ["timestamp"]}},
        {"save_dataset": True},
        {"save_dataloaders": True},
        {"worker": 1},
    ],
)
@pytest.mark.parametrize("start", [SECONDS, NANOSECONDS])
def test_what_is_made_of_the_column_does_not_decide(tmp_path, change, start):
    rows = rows_of(start=start)
    change = change | ({"normalize_all": False} if "normalize_field" in change else {})
    folder = write(tmp_path, rows)
    # the second time, RecBole may read back what it saved
    for _ in range(2):
        (_, _, test), loaders = split(folder, **change)
        assert set(test) == last_of(rows)
    batch = next(iter(loaders[0]))
    assert all(values.dtype in (torch.int64, torch.float32) for values in batch.interaction.values())
    assert ("timestamp" in batch) is ("unused_col" not in change)


def test_what_models_see_of_the_time_is_as_before(tmp_path):
    rows = rows_of()
    _, (train, *_) = split(write(tmp_path, rows))
    seen = train.dataset.inter_feat
    times = {(user, item): time for user, item, time in rows}
    expected = torch.tensor([float(times[pair]) for pair in pairs(train.dataset)], dtype=torch.float32)
    assert seen["timestamp"].dtype == torch.float32 and torch.equal(seen["timestamp"], expected)


def test_a_random_order_needs_no_times(tmp_path):
    rows = [(user, item, "" if n % 3 else "noon") for n, (user, item, _) in enumerate(rows_of())]
    folder = write(tmp_path, rows, time="timestamp:token")
    parts, _ = split(folder, eval_args=LAST_OUT | {"order": "RO"})
    assert sum(map(len, parts)) == len(rows)


@pytest.mark.parametrize(
    ("time", "kind", "sentence"),
    [
        ("", "float", "84 interactions have no value in the column timestamp:float of 'timed'"),
        ("2021-03-04", "token", r"timestamp:token of 'timed'.*2021-03-04, that is not a finite number: write times as"),
        ("inf", "float", "not a finite number"),
        ("1600000000000000000.25", "float", "float64 does not hold exactly: write whole numbers"),
        ("99999999999999999999999", "token", "float64 does not hold exactly"),
    ],
)
@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_times_that_cannot_be_ordered(tmp_path, time, kind, sentence, model):
    rows = rows_of()
    rows[5] = (*rows[5][:2], time)
    folder = write(tmp_path, rows, time=f"timestamp:{kind}")
    values = {"train_neg_sample_args": None} if model == "SASRec" else {}
    with pytest.raises(UserError, match=sentence):
        split(folder, model, **values)
    if model == "BPR":
        moment = {"split": {"TS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
        with pytest.raises(UserError, match=sentence):
            split(folder, eval_args=moment)


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("start", [SECONDS, NANOSECONDS])
def test_which_of_a_repeated_pair_is_kept(tmp_path, keep, start):
    rng = np.random.default_rng(1)
    # many equal times: the line decides between them
    rows = [(f"u{rng.integers(20)}", f"i{rng.integers(40)}", start + int(rng.integers(4)), n) for n in range(900)]
    folder = write(tmp_path, rows, time="timestamp:float\tline:float")
    frame = pd.DataFrame(rows, columns=["user", "item", "time", "line"])
    kept = frame.sort_values("time", kind="stable").drop_duplicates(["user", "item"], keep=keep)
    _, loaders = split(folder, rm_dup_inter=keep)
    lines = torch.cat([loader.dataset.inter_feat["line"] for loader in loaders])
    assert sorted(lines.tolist()) == sorted(kept["line"])


@pytest.mark.parametrize("value", [False, True, "frist", 1])
def test_another_value_of_rm_dup_inter(tmp_path, value):
    with pytest.raises(UserError, match=f"rm_dup_inter: {value} is unknown: use first or last"):
        split(write(tmp_path, rows_of()), rm_dup_inter=value)


def test_a_repeated_pair_without_a_time(tmp_path):
    rows = rows_of()
    rows[3] = (*rows[3][:2], "")
    folder = write(tmp_path, rows)
    (*_, test), _ = split(folder, rm_dup_inter="last", eval_args=LAST_OUT | {"order": "RO"})
    assert test
    write(tmp_path, [*rows, (*rows[3][:2], SECONDS)])
    with pytest.raises(UserError, match="1 of 85 interactions have no value"):
        split(folder, rm_dup_inter="last", eval_args=LAST_OUT | {"order": "RO"})


@pytest.mark.parametrize("start", [SECONDS, MILLISECONDS])
def test_intervals_of_time(tmp_path, start):
    rows = rows_of(start=start)
    middle = sorted(time for *_, time in rows)[20]
    parts, _ = split(write(tmp_path, rows), val_interval={"timestamp": f"[{middle},inf)"})
    assert {pair for part in parts for pair in part} == {row[:2] for row in rows if row[2] >= middle}


def test_intervals_that_float64_cannot_compare(tmp_path):
    folder = write(tmp_path, rows_of(start=NANOSECONDS))
    with pytest.raises(UserError, match="val_interval on timestamp needs values that float64 holds exactly"):
        split(folder, val_interval={"timestamp": "[1600000000000000001,inf)"})


def test_diffrec_weighs_by_time(tmp_path):
    rows = rows_of()
    folder = write(tmp_path, rows)
    values = {"time-aware": True, "w_min": 0.1, "w_max": 1.0, "dims_dnn": [8], "embedding_size": 4}
    _, (train, *_) = split(folder, "DiffRec", **values, eval_args=LAST_OUT | {"order": "RO"})
    model = get_model("DiffRec")(train.dataset.config, train.dataset)
    data, times = train.dataset, {(user, item): time for user, item, time in rows}
    users, items = (data.field2id_token[field] for field in ("user_id", "item_id"))
    for user in range(1, data.user_num):
        history = [items[item] for item in model.history_item_id[user].tolist() if item]
        assert history == sorted(history, key=lambda item: times[users[user], item])
        weights = model.history_item_value[user][: len(history)]
        assert weights.tolist() == sorted(weights.tolist())


def test_every_user_of_ml_100k():
    config = Config("BPR", "ml-100k", config_dict={"show_progress": False, "eval_args": LAST_OUT})
    dataset = create_dataset(config)
    *_, test = data_preparation(config, dataset)
    frame = pd.read_csv(f"{config['data_path']}/ml-100k.inter", sep="\t", dtype=str)
    frame.columns = ["user", "item", "rating", "time"]
    frame["time"] = frame["time"].astype(float).astype("int64")
    last = frame.sort_values("time", kind="stable").drop_duplicates("user", keep="last")
    assert set(pairs(test.dataset)) == set(zip(last["user"], last["item"])) and len(last) == 943


# ---------------------------------------------------------------------------- the interactions themselves


def timed(times):
    field = torch.arange(len(times))
    columns = {"n": field, "t": torch.as_tensor(times, dtype=torch.float64).float()}
    return TimedInteraction(columns, "t", torch.as_tensor(times, dtype=torch.float64), "no order")


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=30),
    up=st.tuples(st.booleans(), st.booleans()),
)
def test_sorts_by_several_fields_are_stable_in_both_directions(rows, up):
    interactions = timed([SECONDS + time for _, time in rows])
    interactions["user"] = torch.tensor([user for user, _ in rows])
    interactions.sort(["user", "t"], list(up))
    signs = [1 if ascending else -1 for ascending in up]
    expected = sorted(range(len(rows)), key=lambda n: (signs[0] * rows[n][0], signs[1] * rows[n][1]))
    assert interactions["n"].tolist() == expected
    assert interactions.times.tolist() == [SECONDS + rows[n][1] for n in expected]
    plain = Interaction({"user": torch.tensor([user for user, _ in rows]), "n": torch.arange(len(rows))})
    plain.sort("user", up[0])
    assert plain["n"].tolist() == sorted(range(len(rows)), key=lambda n: signs[0] * rows[n][0])
    assert plain.columns == ["user", "n"]


def test_recbole_refuses_wrong_arguments_of_sort():
    interactions = timed([2, 1])
    with pytest.raises(ValueError, match="not exist"):
        interactions.sort("unknown", False)
    with pytest.raises(TypeError, match="Wrong type"):
        interactions.sort(["n"], [0])
    assert interactions["n"].tolist() == [0, 1]


def test_times_follow_their_rows_through_copies_pickles_and_shuffles():
    times = [SECONDS + n for n in (3, 1, 2, 0)]
    for interactions in (timed(times), pickle.loads(pickle.dumps(timed(times))), timed(times)[torch.arange(4)]):
        interactions.shuffle()
        assert interactions.times.tolist() == [times[n] for n in interactions["n"].tolist()]
        interactions.sort("t")
        assert interactions["n"].tolist() == [3, 1, 2, 0]
        assert interactions[1:3]["n"].tolist() == [1, 2]
        assert interactions["t"].dtype == torch.float32


def test_rows_without_a_time_can_be_left_out():
    interactions = timed([2.0, float("nan"), 1.0])
    with pytest.raises(UserError, match="no order"):
        interactions.sort(["n", "t"])
    interactions.sort("n", False)
    some = interactions[[0, 2]]
    some.sort("t")
    assert some["n"].tolist() == [2, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20))
def test_whole_numbers_of_any_size_keep_their_order(numbers):
    keys, fault = times_of(pd.Series(numbers, dtype="int64"), "t")
    assert fault is None
    assert [a < b for a in keys for b in keys] == [a < b for a in numbers for b in numbers]
