"""Paired tests against scipy, brute force and numbers computed by hand."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import significance
from tests.experiments.test_store import record

pl = pytest.importorskip("polars")


def test_without_ties_the_signed_rank_test_is_scipys():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 12, 40):
        difference = rng.normal(size=n)
        assert significance.signed_rank_p(difference) == pytest.approx(
            stats.wilcoxon(difference, method="exact").pvalue, rel=1e-9
        )
    many = np.round(rng.normal(0.1, 1, 300), 1)
    many = many[many != 0]
    assert significance.signed_rank_p(many) == pytest.approx(stats.wilcoxon(many, method="approx").pvalue, rel=1e-12)


@pytest.mark.parametrize("difference", [[1, 1, -1, 2, 2, 3], [1, 1, 1, 1, 1], [-2, 2, 2, -3, 1, 1, 1, 4]])
def test_with_ties_it_is_that_of_all_signs(difference):
    difference = np.array(difference, dtype=float)
    ranks = stats.rankdata(np.abs(difference))
    sums = np.array([(ranks * signs).sum() for signs in product([0, 1], repeat=len(ranks))])
    observed = ranks[difference > 0].sum()
    expected = min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))
    assert significance.signed_rank_p(difference) == pytest.approx(expected, rel=1e-12)


def test_holm_by_hand():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert significance.holm([0.02]) == pytest.approx([0.02])


def test_a_comparison_by_hand():
    best, other = np.array([5.0, 4.0, 3.0, 6.0, 2.0]), np.array([3.0, 3.0, 4.0, 3.0, 2.0])
    found = significance.paired("other", best, other)  # differences 2, 1, -1, 3, 0
    assert (found.mean, found.difference, found.nonzero) == (3.0, 1.0, 4)
    # ranks of 1, 1, 2, 3 are 1.5, 1.5, 3, 4: W+ = 8.5, W- = 1.5
    assert found.rank_biserial == pytest.approx((8.5 - 1.5) / 10)
    assert found.d_z == pytest.approx(1 / math.sqrt(10 / 4))
    assert found.p_t == pytest.approx(stats.ttest_rel(best, other).pvalue)
    # of 16 signs, those with W+ >= 8.5: all positive (10), the first or second negative (8.5 each)
    assert found.p_wilcoxon == pytest.approx(2 * 3 / 16)


def test_samples_without_a_difference():
    found = significance.paired("same", np.full(6, 0.3), np.full(6, 0.3))
    assert (found.difference, found.nonzero, found.p_wilcoxon, found.p_t) == (0.0, 0, 1.0, 1.0)
    assert found.interval == (0.0, 0.0) and math.isnan(found.d_z) and math.isnan(found.rank_biserial)


def test_the_same_difference_everywhere_and_a_single_pair():
    found = significance.paired("other", np.arange(6) + 1.0, np.arange(6) + 0.0)
    assert (found.p_t, found.d_z, found.rank_biserial) == (0.0, math.inf, 1.0)
    assert found.p_wilcoxon == pytest.approx(2 / 2**6)
    single = significance.paired("other", np.array([2.0]), np.array([1.0]))
    assert (single.p_t, single.p_wilcoxon) == (1.0, 1.0) and math.isnan(single.d_z)


def test_differences_of_rounding_are_none():
    third = np.array([0.1 + 0.2, 0.3])
    assert significance.paired("same", third, np.array([0.3, 0.1 + 0.2])).nonzero == 0


def test_the_bootstrap_interval_is_that_of_drawn_pairs(monkeypatch):
    rng = np.random.default_rng(3)
    difference = rng.choice([0.0, 0.5, -0.5, 1.0], 500, p=[0.8, 0.1, 0.06, 0.04])
    low, high = significance.bootstrap_interval(difference)
    expected = stats.bootstrap((difference,), np.mean, n_resamples=9999, method="percentile", random_state=1)
    width = high - low
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)
    assert (low, high) == significance.bootstrap_interval(difference)
    monkeypatch.setattr(significance, "_BLOCK", 1000)  # 250 resamples at a time, the same distribution
    assert significance.bootstrap_interval(difference) == pytest.approx((low, high), abs=0.05 * width)


def test_a_family_is_ordered_corrected_and_described():
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    samples = {"weak": base, "best": base + 0.5 + 0.1 * rng.normal(size=200), "near": base + 0.49}
    family = significance.compare(samples, "recall@20", "user", seeds=(1, 2, 3))
    assert family.best == "best" and [each.label for each in family.comparisons] == ["near", "weak"]
    raw = [significance.paired(name, samples["best"], samples[name]) for name in ("near", "weak")]
    assert [c.p_wilcoxon for c in family.comparisons] == pytest.approx(
        significance.holm([c.p_wilcoxon for c in raw]).tolist()
    )
    assert [c.p_t for c in family.comparisons] == pytest.approx(significance.holm([c.p_t for c in raw]).tolist())
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
        assert part in family.sentence
    assert "cannot give" not in family.sentence


def test_less_can_be_better():
    samples = {"even": np.array([0.2, 0.3, 0.4]), "skewed": np.array([0.9, 0.8, 0.7])}
    assert significance.compare(samples, "recall@10", "seed", seeds=(1, 2, 3)).best == "skewed"
    family = significance.compare(samples, "GiniIndex@10", "seed", seeds=(1, 2, 3))
    assert (family.best, family.comparisons[0].rank_biserial) == ("even", -1.0)
    assert family.comparisons[0].difference == pytest.approx(-0.5)


def test_a_family_too_small_to_show_anything_says_so():
    samples = {"a": np.array([1.0, 2, 3, 4, 5]), "b": np.array([0.0, 1, 2, 3, 4.5])}
    family = significance.compare(samples, "ndcg@10", "seed", seeds=range(5))
    assert not family.comparisons[0].significant
    assert "With 5 pairs this test cannot give a p-value below 0.062" in family.sentence


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


def test_over_seeds_pairs_the_seeds_that_all_have():
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


def test_two_runs_under_one_name_are_not_mixed():
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
    expected = significance.paired("b", np.array([0.5, 0.5, 0.5]), np.array([0.0, 0.0, 0.5]))
    (found,) = family.comparisons
    assert (found.difference, found.nonzero, found.p_t) == (expected.difference, 2, expected.p_t)


def test_other_users_are_refused(tmp_path):
    a = users_of(tmp_path, "a", 1, ["u1", "u2"], [1.0, 0.0])
    with pytest.raises(UserError, match="not tested on the same users with seed 1"):
        significance.over_users(
            [a, users_of(tmp_path, "b", 1, ["u1", "u9"], [1.0, 0.0])], tmp_path, "train", "recall@20"
        )
    b = users_of(tmp_path, "b", 1, ["u1", "u2"], [1.0, 0.0])
    anew = [users_of(tmp_path, label, 2, ["u3", "u4"], [1.0, 0.0]) for label in "ab"]
    with pytest.raises(UserError, match="seeds 1 and 2 tested other users"):
        significance.over_users([a, b, *anew], tmp_path, "train", "recall@20")


def test_records_without_results_per_user(tmp_path):
    records = [scored("a", 1, 0.5), scored("b", 1, 0.4)]
    with pytest.raises(UserError, match="no results per user of a, planted, seed 1"):
        significance.over_users(records, tmp_path, "train", "recall@20")
    with pytest.raises(UserError, match="no seed in common"):
        significance.over_users([scored("a", 1, 0.5), scored("b", 2, 0.4)], tmp_path, "train", "recall@20")
