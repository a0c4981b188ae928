"""Searches: what is proposed, recorded, resumed and chosen. The trials here only pretend to train."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store, tuning
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.processes import Event
from recbole_mambarec.experiments.run import new_record
from recbole_mambarec.experiments.search import Search
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.experiments.tuning import Tuning, duration
from recbole_mambarec.testing.planted import QUICK, write_planted

pytest.importorskip("hyperopt")

GRID = "mmd_weight choice [0.1, 0.15, 0.2]\nmmd_bandwidth choice [1.0, 1.5]\n"


@pytest.fixture
def data(tmp_path):
    write_planted(tmp_path)
    return tmp_path


def search(data, space=GRID, model="MambaRec", **overrides) -> Search:
    file = data / "mine.hyper"
    file.write_text(space)
    return Search(resolve(model, "planted", overrides=QUICK | {"data_path": str(data)} | overrides), read_space(file))


def pretend(run, weights=None, report=lambda _: None) -> Record:
    """A trial whose score is best at mmd_weight 0.15 and mmd_bandwidth 1.5."""
    config = run.config
    score = 0.5 - (config["mmd_weight"] - 0.15) ** 2 - 0.01 * (config["mmd_bandwidth"] - 1.5) ** 2
    report({"entry": {"epoch": 0, "valid": {"recall@20": score}}, "memory_gib": 0.001})
    if weights is not None:
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_text(run.key)
    return replace(new_record(run), valid={"recall@20": score}, best_epoch=2, epochs=4)


class InThisProcess:
    """A pool whose jobs run immediately; their messages arrive one after the other."""

    def __init__(self, jobs=1):
        self.running, self._events, self.most = {}, [], 0

    def start(self, job, function, args, log):
        self.running[job] = 0
        self.most = max(self.most, len(self.running))
        try:
            result = function(*args, report=lambda value: self._events.append(Event(job, "report", value)))
            self._events.append(Event(job, "done", result))
        except RuntimeError as error:
            self._events.append(Event(job, "failed", str(error)))

    def events(self, timeout):
        event = self._events.pop(0)
        if event.kind != "report":
            del self.running[event.job]
        yield event

    def close(self):
        self.running.clear()


@pytest.fixture
def here(monkeypatch):
    """Trials pretend, in this process; the list of their points."""
    made = []

    def trial(run, weights, report):
        made.append((run.config["mmd_weight"], run.config["mmd_bandwidth"]))
        return pretend(run, weights, report)

    monkeypatch.setattr(tuning, "Pool", InThisProcess)
    monkeypatch.setattr(tuning, "trial", trial)
    return made


# ------------------------------------------------------------------------------------------------------------
# accepted and refused searches


@pytest.mark.parametrize(
    ("space", "overrides", "sentence"),
    [
        (
            "mmd_wieght choice [0.1]",
            {},
            "'mmd_wieght' of the search space is no configuration key of MambaRec: did you",
        ),
        ("zebra choice [0.1]", {}, "'zebra' of the search space is no configuration key of MambaRec: remove its line"),
        ("valid_metric choice ['NDCG@10']", {}, "'valid_metric' cannot be tuned: it decides what is measured"),
        ("seed choice [1, 2]", {}, "'seed' cannot be tuned: it is not a setting of model or training"),
        ("checkpoint_dir choice ['a']", {}, "'checkpoint_dir' cannot be tuned"),
        (GRID, {"mmd_weight": 0.1}, "mmd_weight is both set and tuned: remove --mmd_weight"),
        ("mmd_weight choice [0.1, -1.0]", {}, "mmd_weight must be a number from 0, got -1.0"),
        ("n_mm_layers choice [1, 'many']", {}, "n_mm_layers must be a whole number from 0"),
        ("learner choice ['adam', 'adamm']", {}, "learner 'adamm' is unknown"),
    ],
)
def test_refused_search_spaces(data, space, overrides, sentence):
    with pytest.raises(UserError) as caught:
        search(data, space, **overrides)
    assert sentence in str(caught.value) and not Path("tuning").exists()


@pytest.mark.parametrize(
    ("space", "algo", "sentence"),
    [
        (GRID, "grid", "search algorithm 'grid' is unknown: use one of exhaustive, random, bayes"),
        ("mmd_weight uniform 0,1", "exhaustive", "an exhaustive search needs the type choice for every parameter"),
    ],
)
def test_algorithms_that_do_not_fit(data, space, algo, sentence):
    with pytest.raises(UserError, match=sentence):
        Tuning(search(data, space), algo, progress=False).run()


def test_without_hyperopt(data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hyperopt", None)
    with pytest.raises(UserError, match=r'pip install "recbole-mambarec\[hyperopt\]"'):
        Tuning(search(data), progress=False)


# ------------------------------------------------------------------------------------------------------------
# proposals


def test_an_exhaustive_search_makes_the_grid_in_order(data, here, capsys):
    made = Tuning(search(data), progress=False)
    made.announce()
    made.run()
    assert here == [(w, b) for w in (0.1, 0.15, 0.2) for b in (1.0, 1.5)]
    assert made.best.point == made.best_params == {"mmd_weight": 0.15, "mmd_bandwidth": 1.5}
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"6 trials of MambaRec on planted, in tuning/MambaRec-planted-\w{8}$", lines[0])
    assert re.match(
        r"trial 2 of 6: mmd_weight=0.1, mmd_bandwidth=1.5: Recall@20 0.4975 after epoch 3 of 4, the best so far, 0 s, "
        r"about 0 s left$",
        lines[2],
    )
    assert re.match(
        r"trial 6 of 6: .*: Recall@20 0.4975 .*, best 0.5000 \(mmd_weight=0.15, mmd_bandwidth=1.5\), 0 s$", lines[6]
    )
    assert made.best.test == {}  # nothing has looked at the test split


def test_only_the_weights_of_the_best_trial_are_kept(data, here):
    made = Tuning(search(data), progress=False)
    made.run()
    (file,) = made.search.folder.glob("*.pth")
    assert file == made.search.weights(made.best.key) and file.read_text() == made.best.key


@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_a_random_search_tries_no_point_twice_and_ends_with_the_grid(data, here, algo):
    made = Tuning(search(data), algo, max_evals=50, progress=False)
    made.run()
    assert len(here) == len(set(here)) == 6 and made.best_params["mmd_weight"] == 0.15


@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_continuous_spaces(data, here, algo):
    space = "mmd_weight uniform 0,1\nmmd_bandwidth loguniform -1,1\nn_ui_layers quniform 2,6,2\n"
    made = Tuning(search(data, space), algo, max_evals=30, progress=False)
    made.run()
    assert len(here) == 30 and made.best.score > 0.49
    points = [record.point for record in made.records]
    assert all(type(p["n_ui_layers"]) is int and p["n_ui_layers"] in (2, 4, 6) for p in points)
    assert all(0 <= p["mmd_weight"] <= 1 and 0.36 < p["mmd_bandwidth"] < 2.72 for p in points)
    if algo == "bayes":  # later proposals lie closer to the best than those of the start, which are random
        distance = [abs(p["mmd_weight"] - 0.15) for p in points]
        assert sum(distance[20:]) / 10 < sum(distance[:20]) / 20


def test_bayes_is_repeatable_and_depends_on_the_seed(data, here):
    def points(seed):
        made = Tuning(search(data, "mmd_weight uniform 0,1\n", seed=seed), "bayes", max_evals=4, progress=False)
        return [made.ask().point["mmd_weight"] for _ in range(4)]

    assert points(1) == points(1) != points(2)


def test_early_stop_counts_trials_without_a_better_one(data, here):
    made = Tuning(search(data), early_stop=2, progress=False)
    made.run()
    # the best is the fourth of six
    assert len(here) == 6
    made = Tuning(search(data, GRID, n_mm_layers=2), early_stop=1, progress=False)
    made.run()
    assert here[6:] == [(0.1, 1.0), (0.1, 1.5), (0.15, 1.0)]  # the third is only as good as the second


def test_a_smaller_score_can_be_better(data, here):
    made = Tuning(search(data), progress=False)
    made.search.bigger = False
    made.run()
    assert made.best_params == {"mmd_weight": 0.1, "mmd_bandwidth": 1.0}


# ------------------------------------------------------------------------------------------------------------
# records


def test_a_finished_trial_is_never_repeated(data, here, capsys):
    first = Tuning(search(data), progress=False)
    for _ in range(2):
        attempt = first.ask()
        first.tell(attempt, pretend(attempt.run, first.search.weights(attempt.run.key)), 60.0, 1.5)
    first.ask()  # lost when its driver ends
    second = Tuning(search(data), progress=False)
    second.announce()
    assert "2 are already recorded" in capsys.readouterr().out
    assert second.best == first.best and second.time_left() == 4 * 60.0
    second.run()
    assert here == [(0.15, 1.0), (0.15, 1.5), (0.2, 1.0), (0.2, 1.5)]
    third = Tuning(search(data), progress=False)
    third.run()
    assert len(here) == 4 and third.best.key == second.best.key


def test_bayes_learns_from_the_record(data, here):
    space = "mmd_weight uniform 0,1\nmmd_bandwidth choice [1.0, 1.5]\n"
    Tuning(search(data, space), "bayes", max_evals=25, progress=False).run()
    again = Tuning(search(data, space), "bayes", max_evals=40, progress=False)
    assert len([t for t in again._trials.trials if t["result"]["status"] == "ok"]) == 25
    again.run()
    assert len(here) == 40 == len(set(here))


def test_a_larger_space_takes_over_the_trials_that_lie_in_it(data, here):
    Tuning(search(data), progress=False).run()
    wider = GRID.replace("0.2]", "0.2, 0.25]")
    Tuning(search(data, wider), progress=False).run()
    assert here[6:] == [(0.25, 1.0), (0.25, 1.5)]
    # a parameter that had its default in the recorded trials
    Tuning(search(data, wider + "n_mm_layers choice [1, 2]\n"), progress=False).run()
    assert len(here) == 16
    # one parameter only: the default of mmd_bandwidth, 1.5, is recorded
    Tuning(search(data, "mmd_weight choice [0.1, 0.3]\n"), progress=False).run()
    assert here[16:] == [(0.3, 1.5)]


@pytest.mark.parametrize("change", ["configuration", "seed", "data"])
def test_another_configuration_or_other_data_are_another_search(data, here, change):
    Tuning(search(data), progress=False).run()
    if change == "data":
        with open(data / "planted" / "planted.train.inter", "a", encoding="utf-8") as stream:
            stream.write("u0\ti1\n")
    other = search(data, **{"configuration": {"n_mm_layers": 2}, "seed": {"seed": 7}, "data": {}}[change])
    Tuning(other, progress=False).run()
    assert len(here) == 12 and len(list(Path("tuning").iterdir())) == 2


def test_the_record_of_a_trial(data, here):
    made = Tuning(search(data), progress=False)
    made.run()
    records = store.read(made.search.trials_file)
    assert [r.status for r in records] == ["finished"] * 6
    last = records[-1]
    assert last.point == {"mmd_weight": 0.2, "mmd_bandwidth": 1.5} and last.overrides["mmd_weight"] == 0.2
    assert last.score == last.valid["recall@20"] and last.test == {} and last.stopped is False
    assert last.memory_gib == 0.001 and last.wall_seconds >= 0 and last.group == "tuning"


def test_a_trial_whose_record_was_cut_off_is_repeated(data, here):
    made = Tuning(search(data), progress=False)
    made.run()
    file = made.search.trials_file
    content = file.read_bytes()
    file.write_bytes(content[: -len(content.splitlines()[-1]) // 2])
    again = Tuning(search(data), progress=False)
    again.run()
    assert here[6:] == [(0.2, 1.5)] and again.best.key == made.best.key


# ------------------------------------------------------------------------------------------------------------
# failures


def test_a_failed_trial_does_not_end_the_search_and_is_tried_again(data, here, monkeypatch, capsys):
    def sometimes(run, weights, report):
        if run.config["mmd_weight"] == 0.15:
            raise RuntimeError("its process was killed by SIGKILL (memory may have run out)")
        return here_trial(run, weights, report)

    here_trial = tuning.trial
    monkeypatch.setattr(tuning, "trial", sometimes)
    made = Tuning(search(data), progress=False)
    made.run()
    assert len(here) == 4 and made.best_params == {"mmd_weight": 0.1, "mmd_bandwidth": 1.5}
    assert "trial 3 of 6: mmd_weight=0.15, mmd_bandwidth=1.0: failed: its process was killed" in capsys.readouterr().out
    failed = [r for r in store.read(made.search.trials_file) if r.status == "failed"]
    assert [r.point["mmd_weight"] for r in failed] == [0.15, 0.15] and "SIGKILL" in failed[0].error
    monkeypatch.setattr(tuning, "trial", here_trial)
    again = Tuning(search(data), progress=False)
    again.run()
    assert here[4:] == [(0.15, 1.0), (0.15, 1.5)] and again.best_params["mmd_weight"] == 0.15


def test_a_search_whose_trials_all_fail_in_the_same_way_stops(data, here, monkeypatch):
    def broken(run, weights, report):
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(tuning, "trial", broken)
    with pytest.raises(UserError, match="the first 3 trials failed with the same error: no space left on device"):
        Tuning(search(data), progress=False).run()


def test_a_score_that_is_not_finite_is_a_failure(data, here, monkeypatch):
    def without(run, weights, report):
        record = here_trial(run, weights, report)
        return replace(record, valid={"recall@20": float("nan")}) if run.config["mmd_weight"] == 0.1 else record

    here_trial = tuning.trial
    monkeypatch.setattr(tuning, "trial", without)
    made = Tuning(search(data), progress=False)
    made.run()
    assert made.failures == ["its score is nan"] * 2 and len(made.records) == 4


def test_an_interrupt_keeps_the_records(data, here, monkeypatch):
    def stops(run, weights, report):
        if run.config["mmd_weight"] == 0.15:
            raise KeyboardInterrupt
        return here_trial(run, weights, report)

    here_trial = tuning.trial
    monkeypatch.setattr(tuning, "trial", stops)
    with pytest.raises(KeyboardInterrupt):
        Tuning(search(data), progress=False).run()
    monkeypatch.setattr(tuning, "trial", here_trial)
    Tuning(search(data), progress=False).run()
    assert len(here) == len(set(here)) == 6


# ------------------------------------------------------------------------------------------------------------
# several trials at once


def test_as_many_at_once_as_fit_in_memory(data, here, monkeypatch):
    pools = []

    class Watched(InThisProcess):
        def __init__(self, jobs):
            super().__init__(jobs)
            pools.append(self)

    monkeypatch.setattr(tuning, "Pool", Watched)
    monkeypatch.setattr(tuning, "held_gib", lambda pid: 0.0)
    for room, most in ((1.0, 3), (0.0024, 2), (0.0015, 1)):
        monkeypatch.setattr(tuning, "MemoryGate", lambda room=room: RealGate(lambda: room))
        Tuning(search(data, n_mm_layers=most), progress=False).run(jobs=3)
        assert pools[-1].most == most
    assert len(here) == 18


RealGate = tuning.MemoryGate


def test_a_trial_that_can_never_fit_is_an_error(data, here):
    made = Tuning(search(data), progress=False)
    attempt = made.ask()
    made.tell(attempt, pretend(attempt.run), 1.0, memory_gib=1e6)
    with pytest.raises(UserError, match=r"a trial needs about 1000000\.0 GiB, and this machine has"):
        Tuning(search(data), progress=False).run()


# ------------------------------------------------------------------------------------------------------------
# other methods of RecBole's class


def test_results_as_text_and_as_a_plot(data, here, monkeypatch):
    made = Tuning(search(data), progress=False)
    made.run()
    made.export_result("all.txt")
    text = Path("all.txt").read_text(encoding="utf-8")
    assert text.count("Valid result:") == 6 and "Test" not in text and "mmd_weight=0.2, mmd_bandwidth=1.5\n" in text
    pytest.importorskip("plotly")
    monkeypatch.setattr("webbrowser.open", lambda *args, **kwargs: True)
    made.display_file = "all.html"
    made.plot_hyper()
    assert "MambaRec tuning process" in Path("all.html").read_text(encoding="utf-8")


def test_durations():
    assert [duration(s) for s in (0, 59, 119, 120, 601, 5400, 7200, 86400)] == [
        *("0 s", "59 s", "119 s", "2.0 min", "10 min", "90 min", "2.0 h", "24 h")
    ]
