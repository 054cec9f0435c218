from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from eval.stats import holm, interquartile_mean, mean_interval, paired_difference


def test_interval_worked_by_hand() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])  # s = 1, t = 4.3027 with 2 degrees of freedom
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_is_scipys(confidence: float) -> None:
    values = np.random.default_rng(0).normal(3, 2, 7)
    low, high = scipy.stats.t.interval(confidence, 6, values.mean(), scipy.stats.sem(values))
    estimate = mean_interval(values, confidence)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_interval_covers_what_it_promises_with_three_seeds() -> None:
    draws = np.random.default_rng(1).normal(5, 1, (2000, 3))
    covered = np.mean([e.low <= 5 <= e.high for e in map(mean_interval, draws)])
    assert 0.935 < covered < 0.965


@pytest.mark.parametrize(
    "values", [[0.7], [0.3, 0.3, 0.3], [1.0, math.inf], [1.0, math.nan], [math.inf, -math.inf]]
)
def test_no_interval_where_the_seeds_give_none(values: list[float]) -> None:
    estimate = mean_interval(values)
    assert not estimate.has_interval
    assert not estimate.excludes_zero
    assert estimate.n == len(values)


def test_rounding_is_no_spread() -> None:
    assert not mean_interval([0.1 + 0.2, 0.3, 0.3]).has_interval


def test_nothing_gives_nothing() -> None:
    assert math.isnan(mean_interval([]).mean)
    assert math.isnan(paired_difference([], []).p_value)


def test_one_number_a_seed() -> None:
    with pytest.raises(ValueError, match="one number a seed"):
        mean_interval([[1.0, 2.0]])


def test_excludes_zero() -> None:
    assert mean_interval([1.0, 1.1, 0.9]).excludes_zero
    assert mean_interval([-1.0, -1.1, -0.9]).excludes_zero
    assert not mean_interval([-1.0, 1.0, 0.5]).excludes_zero


def test_paired_difference_is_scipys_paired_test() -> None:
    generator = np.random.default_rng(2)
    a = generator.normal(0, 1, 6)
    b = a + generator.normal(0.4, 0.3, 6)
    result = paired_difference(a, b)
    assert result.p_value == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (result.estimate.low, result.estimate.high) == pytest.approx(tuple(interval))


def test_the_same_arm_twice_is_no_difference() -> None:
    assert paired_difference([0.5, 0.7], [0.5, 0.7]).p_value == 1.0


def test_a_constant_difference_proves_nothing() -> None:
    assert math.isnan(paired_difference([1.5, 2.5], [1.0, 2.0]).p_value)


def test_pairs_need_partners() -> None:
    with pytest.raises(ValueError, match="equal numbers; got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_holm_worked_by_hand() -> None:
    # sorted .01 .03 .04 times 3 2 1 = .03 .06 .04, made monotone: .03 .06 .06
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_does_not_count_what_was_not_tested() -> None:
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert holm([]) == []
    assert math.isnan(holm([math.nan])[0])


def test_interquartile_mean_is_not_moved_by_a_collapsed_seed() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert interquartile_mean(values) == 4.5
    assert interquartile_mean([-1000.0, *values[1:]]) == 4.5


def test_interquartile_mean_needs_eight() -> None:
    with pytest.raises(ValueError, match="at least 8 values; got 7"):
        interquartile_mean([1.0] * 7)
