"""Families of comparisons: what is compared with what, and what cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import paired_tests, significance
from recbole_mambarec.report.significance import statement
from tests.experiments.test_store import record

pl = pytest.importorskip("polars")


def test_a_family_is_ordered_and_corrected_and_its_statement_says_how():
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    samples = {"weak": base, "best": base + 0.5 + 0.1 * rng.normal(size=200), "near": base + 0.49}
    family = significance.compare(samples, "recall@20", "user", seeds=(1, 2, 3))
    assert family.best == "best" and [each.label for each in family.comparisons] == ["near", "weak"]
    raw = [paired_tests.paired(name, samples["best"], samples[name]) for name in ("near", "weak")]
    assert [c.p_wilcoxon for c in family.comparisons] == pytest.approx(
        paired_tests.holm([c.p_wilcoxon for c in raw]).tolist()
    )
    assert [c.p_t for c in family.comparisons] == pytest.approx(paired_tests.holm([c.p_t for c in raw]).tolist())
    assert [c.significant for c in family.comparisons] == [c.p_wilcoxon < 0.05 for c in family.comparisons]
    assert family.comparisons[1].significant
    for part in (
        "best is better in recall@20",
        "p < 0.05",
        "Wilcoxon",
        "n = 200, mean of seeds 1, 2, 3",
        "Holm",
        "2 comp",
    ):
        assert part in statement(family)
    assert "cannot give" not in statement(family)


def test_smaller_can_be_better():
    samples = {"even": np.array([0.2, 0.3, 0.4]), "skewed": np.array([0.9, 0.8, 0.7])}
    assert significance.compare(samples, "recall@10", "seed", seeds=(1, 2, 3)).best == "skewed"
    family = significance.compare(samples, "GiniIndex@10", "seed", seeds=(1, 2, 3))
    assert (family.best, family.comparisons[0].rank_biserial) == ("even", -1.0)
    assert family.comparisons[0].difference == pytest.approx(-0.5)


def test_the_statement_says_when_there_are_too_few_pairs():
    samples = {"a": np.array([1.0, 2, 3, 4, 5]), "b": np.array([0.0, 1, 2, 3, 4.5])}
    family = significance.compare(samples, "ndcg@10", "seed", seeds=range(5))
    assert not family.comparisons[0].significant
    assert "With 5 pairs this test cannot give a p-value below 0.062" in statement(family)


def test_samples_that_cannot_be_compared():
    with pytest.raises(UserError, match="at least two models"):
        significance.compare({"a": np.ones(3)}, "recall@20", "user", (1,))
    with pytest.raises(UserError, match="a 3, b 4"):
        significance.compare({"a": np.ones(3), "b": np.ones(4)}, "recall@20", "user", (1,))


# ------------------------------------------------------------------------------------------------------------
# from records


def scored(label, seed, score, **changes):
    test = {mask: {"recall@20": score} for mask in ("train", "train+valid")}
    return record(label=label, key=f"{label}{seed}", seed=seed, test=test, **changes)


def test_over_seeds_pairs_the_common_seeds():
    records = [scored("a", seed, 0.5 + seed / 100) for seed in range(4)]
    records += [scored("b", seed, 0.4) for seed in (1, 2, 3, 9)]
    family = significance.over_seeds(records, "train", "Recall@20")
    assert (family.unit, family.pairs, family.best, family.best_mean) == ("seed", 3, "a", pytest.approx(0.52))
    assert family.comparisons[0].difference == pytest.approx(0.12)
    assert significance.over_seeds([scored("a", 1, 0.5), scored("b", 1, 0.4)], "train", "recall@20") is None
    assert significance.over_seeds([scored("a", 1, 0.5), scored("b", 2, 0.4)], "train", "recall@20") is None


def test_failed_runs_do_not_count():
    records = [scored("a", s, 0.5) for s in (1, 2)] + [scored("b", s, 0.4) for s in (1, 2)]
    records.append(replace(scored("b", 3, None, status="failed", error="x", valid={}), test={}))
    assert significance.over_seeds(records, "train", "recall@20").pairs == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data_hash": "other"}, "different data"),
        ({"test": {"train": {"ndcg@10": 0.1}}}, "has no 'recall@20': it has ndcg@10"),
        ({"test": {}}, "nothing under the mask 'train'"),
    ],
)
def test_records_that_cannot_be_compared(change, sentence):
    records = [scored("a", s, 0.5) for s in (1, 2)] + [replace(scored("b", s, 0.4), **change) for s in (1, 2)]
    with pytest.raises(UserError, match=sentence):
        significance.over_seeds(records, "train", "recall@20")


def test_two_runs_of_the_same_name_and_seed_are_refused():
    records = [scored("a", s, 0.5) for s in (1, 2)] + [scored("b", s, 0.4) for s in (1, 2)]
    significance.over_seeds([*records, records[0]], "train", "recall@20")
    with pytest.raises(UserError, match="two different runs are called 'a' and have seed 1"):
        significance.over_seeds([*records, replace(records[0], key="tuned")], "train", "recall@20")


def users_of(folder, label, seed, tokens, values):
    frame = pl.DataFrame(
        {
            "user": tokens,
            "train": [3] * len(tokens),
            "items": [["i"]] * len(tokens),
            "popularity": [[1]] * len(tokens),
            "train:recall@20": values,
        }
    )
    frame.write_parquet(folder / f"{label}{seed}.parquet")
    return scored(label, seed, float(np.mean(values)), per_user=f"{label}{seed}.parquet")


def test_over_users_pairs_by_token_and_averages_over_seeds(tmp_path):
    records = [
        users_of(tmp_path, "a", 1, ["u1", "u2", "u3"], [1.0, 0.0, 0.5]),
        users_of(tmp_path, "b", 1, ["u3", "u1", "u2"], [0.5, 0.0, 0.0]),
        users_of(tmp_path, "a", 2, ["u1", "u2", "u3"], [0.0, 1.0, 0.5]),
        users_of(tmp_path, "b", 2, ["u1", "u2", "u3"], [0.0, 0.0, 0.5]),
        users_of(tmp_path, "a", 3, ["u1", "u2", "u3"], [9.0, 9.0, 9.0]),  # no seed of b
    ]
    family = significance.over_users(records, tmp_path, "train", "recall@20")
    assert (family.unit, family.pairs, family.seeds, family.best) == ("user", 3, (1, 2), "a")
    expected = paired_tests.paired("b", np.array([0.5, 0.5, 0.5]), np.array([0.0, 0.0, 0.5]))
    (found,) = family.comparisons
    assert (found.difference, found.nonzero, found.p_t) == (expected.difference, 2, expected.p_t)


def test_different_users_are_refused(tmp_path):
    a = users_of(tmp_path, "a", 1, ["u1", "u2"], [1.0, 0.0])
    with pytest.raises(UserError, match="not tested on the same users with seed 1"):
        significance.over_users(
            [a, users_of(tmp_path, "b", 1, ["u1", "u9"], [1.0, 0.0])], tmp_path, "train", "recall@20"
        )
    b = users_of(tmp_path, "b", 1, ["u1", "u2"], [1.0, 0.0])
    resplit = [users_of(tmp_path, label, 2, ["u3", "u4"], [1.0, 0.0]) for label in "ab"]
    with pytest.raises(UserError, match="seeds 1 and 2 were tested on different users"):
        significance.over_users([a, b, *resplit], tmp_path, "train", "recall@20")


def test_records_without_results_per_user(tmp_path):
    records = [scored("a", 1, 0.5), scored("b", 1, 0.4)]
    with pytest.raises(UserError, match="no results per user of a, planted, seed 1"):
        significance.over_users(records, tmp_path, "train", "recall@20")
    with pytest.raises(UserError, match="no seed in common"):
        significance.over_users([scored("a", 1, 0.5), scored("b", 2, 0.4)], tmp_path, "train", "recall@20")
