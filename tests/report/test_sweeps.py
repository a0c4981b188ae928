"""Grids and searches among runs."""

from dataclasses import replace
from itertools import product

from recbole_mambarec.report import load
from recbole_mambarec.report.sweeps import find
from tests.report.test_load import run


def scored(valid, test=None, **options):
    made = run(**options)
    scores = {} if test is None else {mask: {"recall@20": test} for mask in ("train", "train+valid")}
    return replace(made, valid={"recall@20": valid}, test=scores)


def grid(*more):
    """3 x 3 points, of which validation and test would choose different ones."""
    made = [
        scored(0.1 - (a - 2) ** 2 * 0.01 - (b - 2) ** 2 * 0.01, 0.09 + 0.001 * a, label=f"{a} {b}", model="M", a=a, b=b)
        for a, b in product((1, 2, 3), (1, 2, 3))
    ]
    return load.rows([*made, *more])


def test_a_grid_is_found_and_nothing_inside_it():
    (found,) = find(grid(), [])
    assert found.keys == ("a", "b") and len(found.points) == 9 and not found.searched
    assert found.options(0) == [1, 2, 3]
    assert found.chosen.values == (2, 2)
    assert found.best_on_test("train").values[0] == 3


def test_other_models_and_other_settings_do_not_mix_with_it():
    others = [scored(0.5, label="other", model="N", a=1, b=1), scored(0.6, label="more", model="M", a=1, b=1, c=7)]
    (found,) = find(grid(*others), [])
    assert len(found.points) == 9 and found.chosen.values == (2, 2)


def test_one_key_needs_three_values_and_words_are_not_a_grid():
    assert find(load.rows([scored(0.1, label=str(a), model="M", a=a) for a in (1, 2)]), []) == []
    assert find(load.rows([scored(0.1, label=str(a), model="M", a=a) for a in ("x", "y", "z")]), []) == []
    assert find(load.rows([scored(0.1, label=str(a), model="M", a=a) for a in (True, False)]), []) == []
    (found,) = find(load.rows([scored(0.1, label=str(a), model="M", a=a) for a in (1, 2, 0.5)]), [])
    assert found.keys == ("a",) and found.options(0) == [0.5, 1, 2]


def test_scattered_points_are_not_a_grid():
    scattered = [scored(0.1, label=f"{a}", model="M", a=a, b=a * a) for a in (1, 2, 3, 4)]
    assert find(load.rows(scattered), []) == []


def test_crossing_lines_are_not_a_grid():
    """Changes of one key at a time are sweeps of that key if it has enough values, but not a grid of two keys."""
    points = [(1, 1), (2, 1), (3, 1), (1, 2)]
    (found,) = find(load.rows([scored(0.1, label=f"{a} {b}", model="M", a=a, b=b) for a, b in points]), [])
    assert found.keys == ("a",) and [point.values for point in found.points] == [(1,), (2,), (3,)]


def test_a_single_change_beside_a_grid_is_not_part_of_it():
    side = scored(0.5, label="without b", model="M", a=2, b=0)
    plane, line = find(grid(side), [])
    assert plane.keys == ("a", "b") and len(plane.points) == 9
    assert line.keys == ("b",) and line.options(0) == [0, 1, 2, 3]


def test_runs_under_another_budget_are_another_grid():
    runs = [
        scored(0.1 + a / 100, label=f"{a} {epochs}", model="M", a=a, epochs=epochs)
        for a, epochs in product((1, 2, 3), (40, 1000))
    ]
    found = find(load.rows(runs), [])
    assert [(sweep.keys, len(sweep.points)) for sweep in found] == [(("a",), 3)] * 2


def test_points_are_compared_on_common_seeds():
    more = scored(0.9, 0.9, label="1 1", model="M", a=1, b=1, seed=7)
    (found,) = find(grid(more), [])
    assert {tuple(point.row.seeds) for point in found.points} == {(1,)}
    assert found.chosen.values == (2, 2)


def test_smaller_may_be_better():
    records = [
        scored(value, label=str(a), model="M", a=a, valid_metric_bigger=False) for a, value in ((1, 3), (2, 1), (3, 2))
    ]
    (found,) = find(load.rows(records), [])
    assert found.chosen.values == (2,)


def test_a_search_consists_of_its_trials_except_those_stopped_early():
    trials = [
        replace(
            scored(value, label=f"a={a}", model="M", group="tuning", a=a, b=1), point={"a": a, "b": 1}, stopped=a == 3
        )
        for a, value in ((1, 0.1), (2, 0.3), (3, 0.9))
    ]
    (found,) = find([], trials)
    assert found.keys == ("a",) and found.searched and found.stopped == 1
    assert found.chosen.values == (2,) and found.best_on_test("train") is None


def test_a_search_over_words_keeps_their_order():
    trials = [
        replace(scored(0.1, label=a, model="M", group="tuning", a=a), point={"a": a}, stopped=False) for a in ("z", "a")
    ]
    (found,) = find([], trials)
    assert found.options(0) == ["z", "a"]
