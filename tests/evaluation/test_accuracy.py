"""Accuracy, its interval and the paired comparison against scipy and plain counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpr_lightning.evaluation.accuracy import accuracy_at, first_hit, paired_difference, sign_test

RANKS = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@settings(deadline=None, max_examples=50)
@given(RANKS, st.integers(1, 12))
def test_accuracy_is_the_share_of_questions_with_a_hit(ranks, k):
    found = accuracy_at(np.array(ranks), k)
    assert found.value == sum(1 <= rank <= k for rank in ranks) / len(ranks)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found == accuracy_at(np.array(ranks), k)


@pytest.mark.parametrize(("hits", "questions"), [(0, 50), (50, 50)])
def test_no_doubt_without_variation(hits, questions):
    ranks = np.array([1] * hits + [0] * (questions - hits))
    assert tuple(accuracy_at(ranks, 5)) == (hits / questions,) * 3


@pytest.mark.parametrize(("hits", "questions"), [(700, 1000), (30, 400), (2800, 3610)])
def test_the_interval_is_that_of_the_percentile_bootstrap(hits, questions):
    """The bootstrap share is binomial, so its percentiles are known; the tolerance is one question and 10,000 draws."""
    ranks = np.array([1] * hits + [0] * (questions - hits))
    found = accuracy_at(ranks, 1)
    low, high = stats.binom.ppf([0.025, 0.975], questions, hits / questions) / questions
    sampling = (
        3 * np.sqrt(0.025 * 0.975 / 10_000) / stats.norm.pdf(1.96) * np.sqrt(hits * (questions - hits) / questions**3)
    )
    assert abs(found.low - low) <= 1 / questions + sampling
    assert abs(found.high - high) <= 1 / questions + sampling


def test_the_resampling_is_that_of_one_fixed_seed():
    """Pins the derivation, so that figures stay comparable over versions and machines."""
    ranks, baseline = np.array([1] * 613 + [0] * 387), np.array([0] * 100 + [1] * 520 + [0] * 380)
    drawn = np.random.default_rng(0).binomial(1000, 0.613, 10_000) / 1000
    assert accuracy_at(ranks, 3)[1:] == accuracy_at(ranks, 3)[1:] == tuple(np.percentile(drawn, [2.5, 97.5]))
    drawn = np.random.default_rng(0).multinomial(1000, [0.1, 0.007, 0.893], 10_000)
    expected = tuple(np.percentile((drawn[:, 0] - drawn[:, 1]) / 1000, [2.5, 97.5]))
    difference = paired_difference(ranks, baseline, 1)
    assert difference[1:3] == paired_difference(ranks, baseline, 1)[1:3] == expected
    assert difference.value == 0.093


def test_the_interval_covers_the_truth_in_about_95_of_100_samples():
    rng = np.random.default_rng(7)
    intervals = [accuracy_at((rng.random(500) < 0.6).astype(int), 1) for _ in range(200)]
    covered = sum(interval.low <= 0.6 <= interval.high for interval in intervals)
    assert 179 <= covered <= 199  # 190 expected; 3.5 standard deviations below, and never all


@given(st.integers(0, 300), st.integers(0, 300))
def test_sign_test_is_scipy_s_exact_binomial_test(won, lost):
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert sign_test(won, lost) == pytest.approx(expected, rel=1e-9)


def test_sign_test_of_thousands_of_questions():
    assert sign_test(1700, 1910) == pytest.approx(stats.binomtest(1700, 3610).pvalue, rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=50), st.integers(1, 6))
def test_the_difference_changes_sign_with_the_order(pairs, k):
    ours, baseline = np.array(pairs).T
    found, turned = paired_difference(ours, baseline, k), paired_difference(baseline, ours, k)
    assert found.value == pytest.approx(accuracy_at(ours, k).value - accuracy_at(baseline, k).value, abs=1e-12)
    assert turned.value == -found.value
    assert turned.p_value == found.p_value
    won = sum(1 <= a <= k and not 1 <= b <= k for a, b in pairs)
    lost = sum(1 <= b <= k and not 1 <= a <= k for a, b in pairs)
    assert found.p_value == sign_test(won, lost)
    assert found.low <= found.value <= found.high


def test_pairing_makes_the_interval_narrow_where_systems_agree():
    baseline = np.array([1, 0] * 500)
    ours = baseline.copy()
    ours[[1, 3, 5, 7]] = 1
    found = paired_difference(ours, baseline, 1)
    assert found.value == 0.004
    assert 0 <= found.low < found.high < 0.01
    low, high = stats.binom.ppf([0.025, 0.975], 1000, 0.004) / 1000
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0005)
    assert tuple(paired_difference(baseline, baseline, 1)) == (0.0, 0.0, 0.0, 1.0)


def test_first_hit_counts_from_one():
    assert [first_hit(hits) for hits in ([], [False], [True], [False, False, True, True])] == [0, 0, 1, 3]
