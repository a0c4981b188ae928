"""The table of the epochs and minutes until runs reach their result, from records made by hand."""

import pytest

from benchmarks.time_to_result import comparable, minutes, reached, rows
from tests.experiments.test_store import record


def run(seed, curve, boost=1.0, seconds=30.0, **config):
    config = {"valid_metric": "Recall@20", "lr_boost": boost, "mmd_weight": 0.15} | config
    return record(
        model="MambaRec",
        seed=seed,
        overrides={} if boost == 1.0 else {"lr_boost": boost},
        config=config,
        curve=[
            {"valid": {"recall@20": value}, "train_seconds": seconds, "valid_seconds": seconds and 30.0}
            for value in curve
        ],
        best_epoch=curve.index(max(curve)),
        valid={"recall@20": max(curve)},
        test={"train": {"recall@20": max(curve) + 0.01}},
    )


def test_epochs_until_a_value():
    assert reached([0.1, 0.4, 0.3], 0.4) == 2
    assert reached([0.1, 0.4], 0.5) is None


def test_minutes_are_blank_if_they_are_not_recorded():
    assert minutes(run(1, [0.1, 0.2]), 2) == 2.0
    assert minutes(run(1, [0.1, 0.2], seconds=None), 2) is None
    assert minutes(run(1, [0.1, 0.2]), None) is None


def test_runs_with_other_settings_are_left_out():
    plain, boosted = run(1, [0.1]), run(1, [0.1], boost=3.0)
    # a record from before the key existed belongs to its default
    old = run(2, [0.1])
    del old.config["lr_boost"]
    other = run(1, [0.1], boost=3.0, mmd_weight=0.2)
    assert comparable([plain, boosted, old, other], "lr_boost", 1.0) == {1.0: [plain, old], 3.0: [boosted]}


def test_the_table():
    slow, fast = run(1, [0.1, 0.2, 0.5, 1.0]), run(1, [0.5, 0.98, 0.9], boost=3.0)
    second = run(2, [0.1, 1.0], seconds=None)
    table = rows({1.0: [slow, second], 3.0: [fast]}, 1.0, 0.95)
    assert table[0] == [1.0, 1, 4, 4, 4.0, 4, 4, 1.0, 1.01]
    assert table[2][:5] == [1.0, "mean", 3, 3, None]
    assert table[3] == [3.0, 1, 2, 2, 2.0, 2, 3, 0.98, pytest.approx(0.99)]
