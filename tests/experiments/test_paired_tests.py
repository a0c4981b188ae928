"""Paired tests against scipy, brute force and numbers computed by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from recbole_mambarec.experiments import paired_tests


def test_the_signed_rank_test_without_ties_agrees_with_scipy():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 12, 40):
        difference = rng.normal(size=n)
        assert paired_tests.signed_rank_p(difference) == pytest.approx(
            stats.wilcoxon(difference, method="exact").pvalue, rel=1e-9
        )
    many = np.round(rng.normal(0.1, 1, 300), 1)
    many = many[many != 0]
    assert paired_tests.signed_rank_p(many) == pytest.approx(stats.wilcoxon(many, method="approx").pvalue, rel=1e-12)


@pytest.mark.parametrize("difference", [[1, 1, -1, 2, 2, 3], [1, 1, 1, 1, 1], [-2, 2, 2, -3, 1, 1, 1, 4]])
def test_the_signed_rank_test_with_ties_agrees_with_all_sign_patterns(difference):
    difference = np.array(difference, dtype=float)
    ranks = stats.rankdata(np.abs(difference))
    sums = np.array([(ranks * signs).sum() for signs in product([0, 1], repeat=len(ranks))])
    observed = ranks[difference > 0].sum()
    expected = min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))
    assert paired_tests.signed_rank_p(difference) == pytest.approx(expected, rel=1e-12)


def test_holm_by_hand():
    assert paired_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired_tests.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert paired_tests.holm([0.02]) == pytest.approx([0.02])


def test_a_comparison_by_hand():
    best, other = np.array([5.0, 4.0, 3.0, 6.0, 2.0]), np.array([3.0, 3.0, 4.0, 3.0, 2.0])
    found = paired_tests.paired("other", best, other)  # differences 2, 1, -1, 3, 0
    assert (found.mean, found.difference, found.nonzero) == (3.0, 1.0, 4)
    # ranks of 1, 1, 2, 3 are 1.5, 1.5, 3, 4: W+ = 8.5, W- = 1.5
    assert found.rank_biserial == pytest.approx((8.5 - 1.5) / 10)
    assert found.d_z == pytest.approx(1 / math.sqrt(10 / 4))
    assert found.p_t == pytest.approx(stats.ttest_rel(best, other).pvalue)
    # 3 of 16 sign patterns have W+ >= 8.5: all positive (10), the first or the second negative (8.5 each)
    assert found.p_wilcoxon == pytest.approx(2 * 3 / 16)


def test_equal_samples():
    found = paired_tests.paired("same", np.full(6, 0.3), np.full(6, 0.3))
    assert (found.difference, found.nonzero, found.p_wilcoxon, found.p_t) == (0.0, 0, 1.0, 1.0)
    assert found.interval == (0.0, 0.0) and math.isnan(found.d_z) and math.isnan(found.rank_biserial)


def test_a_constant_difference_and_a_single_pair():
    found = paired_tests.paired("other", np.arange(6) + 1.0, np.arange(6) + 0.0)
    assert (found.p_t, found.d_z, found.rank_biserial) == (0.0, math.inf, 1.0)
    assert found.p_wilcoxon == pytest.approx(2 / 2**6)
    single = paired_tests.paired("other", np.array([2.0]), np.array([1.0]))
    assert (single.p_t, single.p_wilcoxon) == (1.0, 1.0) and math.isnan(single.d_z)


def test_rounding_errors_are_not_differences():
    third = np.array([0.1 + 0.2, 0.3])
    assert paired_tests.paired("same", third, np.array([0.3, 0.1 + 0.2])).nonzero == 0
    # means of two seeds of values that are stored in float32
    thirds, ones = np.float32([[1 / 3, 2 / 3], [1, 0]]).astype(np.float64).repeat(60).reshape(2, 2, 60).mean(axis=1)
    found = paired_tests.paired("same", thirds, ones)
    assert (thirds != ones).all() and (found.nonzero, found.p_wilcoxon) == (0, 1.0)
    # the smallest difference of two records
    assert paired_tests.paired("other", np.array([0.105613]), np.array([0.105612])).nonzero == 1
    assert paired_tests.paired("other", third + 0.1, third).d_z == math.inf


def test_the_bootstrap_interval_agrees_with_scipy(monkeypatch):
    rng = np.random.default_rng(3)
    difference = rng.choice([0.0, 0.5, -0.5, 1.0], 500, p=[0.8, 0.1, 0.06, 0.04])
    low, high = paired_tests.bootstrap_interval(difference)
    expected = stats.bootstrap((difference,), np.mean, n_resamples=9999, method="percentile", random_state=1)
    width = high - low
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)
    assert (low, high) == paired_tests.bootstrap_interval(difference)
    monkeypatch.setattr(paired_tests, "_BLOCK", 1000)  # 250 resamples at a time, from the same distribution
    assert paired_tests.bootstrap_interval(difference) == pytest.approx((low, high), abs=0.05 * width)
