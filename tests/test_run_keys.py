"""The key of a run: what counts, what does not, and that recorded runs keep theirs."""

from pathlib import Path

import pytest

import recbole_mambarec
from recbole_mambarec import run_keys
from recbole_mambarec.experiments import store
from recbole_mambarec.run_keys import run_key
from tests.experiments.test_store import record

RUNS = Path(recbole_mambarec.__file__).parents[1] / "results" / "runs.jsonl"


@pytest.mark.skipif(not RUNS.is_file(), reason="recorded runs are part of the repository only")
def test_recorded_runs_keep_their_keys():
    """A run whose key changes would be repeated."""
    records = store.read(RUNS)
    keys = [run_key(r.model, r.config, r.seed, r.data_hash) for r in records]
    assert keys == [r.key for r in records]


def test_a_run_is_recognised_after_later_versions_have_added_keys(monkeypatch):
    """Recorded when ``new`` still counted, or did not exist; now its default is known to change nothing."""
    with_new, without = {"embedding_size": 64, "new": 0}, {"embedding_size": 64}
    before = [record(key=run_key("BPR", config, 999, "d"), config=config) for config in (with_new, without)]
    monkeypatch.setitem(run_keys.NEUTRAL, "new", 0)
    today = run_key("BPR", with_new, 999, "d")
    assert today == run_key("BPR", without, 999, "d") != before[0].key
    for each in before:
        assert store.finished([each])[today] == each
    assert run_key("BPR", {"embedding_size": 64, "new": 1}, 999, "d") != today


def test_a_key_that_came_later_to_one_model_counts_for_the_others(monkeypatch):
    monkeypatch.setitem(run_keys.NEUTRAL_OF, "BPR", {"new": 0})
    with_new, without = {"embedding_size": 64, "new": 0}, {"embedding_size": 64}
    assert run_key("BPR", with_new, 999, "d") == run_key("BPR", without, 999, "d")
    assert run_key("BPR", with_new | {"new": 1}, 999, "d") != run_key("BPR", without, 999, "d")
    assert run_key("VBPR", with_new, 999, "d") != run_key("VBPR", without, 999, "d")


def test_a_key_depends_on_what_a_result_depends_on():
    key = run_key("BPR", {"embedding_size": 64, "reg": 0.0}, 999, "d")
    assert key == run_key("BPR", {"reg": 0, "embedding_size": 64.0, "later_key": None}, 999, "d")
    others = [
        run_key("VBPR", {"embedding_size": 64, "reg": 0.0}, 999, "d"),
        run_key("BPR", {"embedding_size": 32, "reg": 0.0}, 999, "d"),
        run_key("BPR", {"embedding_size": 64, "reg": False}, 999, "d"),
        run_key("BPR", {"embedding_size": 64, "reg": 0.0}, 1000, "d"),
        run_key("BPR", {"embedding_size": 64, "reg": 0.0}, 999, "e"),
    ]
    assert len({key, *others}) == 6
    shown = {"embedding_size": 64, "reg": 0.0, "show_progress": True, "data_path": "/here", "worker": 0}
    assert run_key("BPR", shown, 999, "d") == key
