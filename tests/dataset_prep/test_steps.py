"""k-core, duplicates and splits against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep.clean import latest_of_duplicates
from dataset_prep.kcore import k_core
from dataset_prep.options import SPLIT_METHODS
from dataset_prep.split import held_out, leave_one_out, per_user, split, temporal_global
from dataset_prep.tables import Interactions
from recbole_mambarec.errors import UserError

edges = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60)


def by_brute_force(pairs, k):
    """Remove one interaction at a time until no user or item is below k."""
    left = list(range(len(pairs)))
    while True:
        for row in left:
            user, item = pairs[row]
            if sum(pairs[r][0] == user for r in left) < k or sum(pairs[r][1] == item for r in left) < k:
                left.remove(row)
                break
        else:
            return left


@given(edges, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_k_core_agrees_with_brute_force(pairs, k):
    users = np.array([user for user, _ in pairs], dtype=np.int64)
    items = np.array([item for _, item in pairs], dtype=np.int64)
    assert np.flatnonzero(k_core(users, items, k)).tolist() == by_brute_force(pairs, k)


def test_k_core_runs_to_the_fixed_point():
    # a chain: each pass takes only its ends
    users = np.repeat(np.arange(50), 2)
    items = np.concatenate([[n, n + 1] for n in range(50)])
    assert not k_core(users, items, 2).any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_latest_of_each_pair(rows):
    users, items, times = (np.array([row[n] for row in rows], dtype=np.int32) for n in range(3))
    best: dict = {}
    for place, (user, item, time) in enumerate(rows):
        if (user, item) not in best or time >= rows[best[user, item]][2]:
            best[user, item] = place
    mask = latest_of_duplicates(Interactions(users, items, timestamp=times.astype(float)))
    assert np.flatnonzero(mask).tolist() == sorted(best.values())


def test_held_out_sizes():
    n = np.arange(1, 61)
    validation, test = held_out(n)
    for count, v, t in zip(n.tolist(), validation.tolist(), test.tolist()):
        if count >= 10:
            assert v + t == int(0.2 * count) and v == int(0.2 * count) // 2
        else:
            assert (v, t) == {1: (0, 0), 2: (0, 1)}.get(count, (1, 1))


def table(n_users=40, seed=0):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 40, n_users)
    users = rng.permutation(np.repeat(np.arange(n_users), n)).astype(np.int32)
    times = rng.integers(0, 50, len(users)).astype(float)
    return Interactions(users, np.arange(len(users), dtype=np.int32), timestamp=times)


@pytest.mark.parametrize("method", ["mmrec", "temporal-user"])
def test_sizes_per_user(method):
    data = table()
    parts = split(data, method, 1)
    validation, test = held_out(np.bincount(data.users))
    np.testing.assert_array_equal(np.bincount(data.users[parts == 1], minlength=40), validation)
    np.testing.assert_array_equal(np.bincount(data.users[parts == 2], minlength=40), test)


def test_the_seed_determines_the_split():
    data = table()
    one, same, other = (split(data, "mmrec", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("method", ["temporal-user", "leave-one-out"])
def test_no_training_interaction_is_later_than_a_test_interaction(method):
    data = table()
    parts = split(data, method, 1)
    for user in range(40):
        mine = data.users == user
        times, part = data.timestamp[mine], parts[mine]
        for earlier, later in ((0, 1), (1, 2), (0, 2)):
            if (part == earlier).any() and (part == later).any():
                assert times[part == earlier].max() <= times[part == later].min()


def test_leave_one_out_sizes():
    users = np.array([0, 1, 1, 2, 2, 2, 2])
    parts = leave_one_out(users, np.array([0, 5, 4, 3, 2, 1, 0.0]))
    assert parts.tolist() == [0, 2, 0, 2, 1, 0, 0]


def test_equal_times_keep_the_order_of_the_file():
    assert per_user(np.zeros(3, int), np.zeros(3)).tolist() == [0, 1, 2]


def test_temporal_global_keeps_equal_times_together():
    times = np.arange(100.0)
    parts = temporal_global(times)
    assert np.bincount(parts).tolist() == [80, 10, 10]
    ties = temporal_global(np.repeat(np.arange(20.0), 5))
    for moment in range(20):
        assert len(set(ties[moment * 5 : moment * 5 + 5].tolist())) == 1


def test_no_split_and_impossible_splits():
    data = table()
    assert split(data, "none", 0) is None
    with pytest.raises(UserError, match="unknown split"):
        split(data, "random", 0)
    timeless = Interactions(data.users, data.items)
    for method in SPLIT_METHODS[1:4]:
        with pytest.raises(UserError, match="needs timestamps"):
            split(timeless, method, 0)
    singles = Interactions(np.arange(5), np.arange(5))
    with pytest.raises(UserError, match="leaves the valid part empty"):
        split(singles, "mmrec", 0)
