from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from eval.stats import Estimate, combined, interquartile_interval, interquartile_mean, mean_interval
from eval.stats.intervals import interquartile_half_widths, t_half_widths, winsorised


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


def test_one_number_a_seed() -> None:
    with pytest.raises(ValueError, match="one number a seed"):
        mean_interval([[1.0, 2.0]])


def test_excludes_zero() -> None:
    assert mean_interval([1.0, 1.1, 0.9]).excludes_zero
    assert mean_interval([-1.0, -1.1, -0.9]).excludes_zero
    assert not mean_interval([-1.0, 1.0, 0.5]).excludes_zero


def test_distances_to_the_bounds_add_in_quadrature() -> None:
    """Zou and Donner (2008), by hand: √(3² + 4²) below, √(5² + 12²) above."""
    both = combined(Estimate(10, 7, 15, 3), Estimate(9, 5, 21, 64))
    assert both == Estimate(10, 5, 23, 3)


def test_either_without_an_interval_leaves_none() -> None:
    whole, none = Estimate(1, 0, 2, 3), Estimate(1, math.nan, math.nan, 1)
    assert not combined(whole, none).has_interval
    assert not combined(none, whole).has_interval


@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_where_both_errors_are_alike_zero_is_excluded_no_more_often_than_promised(seeds: int) -> None:
    generator = np.random.default_rng(4)
    claims = {"both": 0, "combined": 0}
    for _ in range(3000):
        by_seed = mean_interval(generator.normal(size=seeds))
        by_prompt = mean_interval(generator.normal(size=64) * math.sqrt(64 / seeds))
        mean = by_seed.mean + by_prompt.mean
        first, second = (
            Estimate(mean, mean - own.half_width, mean + own.half_width, own.n)
            for own in (by_seed, by_prompt)
        )
        claims["both"] += first.excludes_zero and second.excludes_zero
        claims["combined"] += combined(first, second).excludes_zero
    assert claims["combined"] <= 0.05 * 3000
    assert claims["both"] > claims["combined"]


def test_interquartile_mean_is_not_moved_by_a_collapsed_seed() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert interquartile_mean(values) == 4.5
    assert interquartile_mean([-1000.0, *values[1:]]) == 4.5


def test_interquartile_mean_needs_eight() -> None:
    with pytest.raises(ValueError, match="at least 8 values; got 7"):
        interquartile_mean([1.0] * 7)


def test_interquartile_interval_worked_by_hand() -> None:
    # 1…8 drawn in to 3 3 3 4 5 6 6 6: squares about 4.5 add up to 14; d = 14 / (4 · 3); t = 3.1824 with 3 degrees of freedom
    assert winsorised(np.arange(8.0, 0, -1)).tolist() == [3, 3, 3, 4, 5, 6, 6, 6]
    estimate = interquartile_interval(range(1, 9))
    assert (estimate.mean, estimate.n) == (4.5, 8)
    assert estimate.half_width == pytest.approx(3.182446305284263 * math.sqrt(14 / 12))


@pytest.mark.parametrize("n", [8, 9, 11, 12, 20])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interquartile_interval_is_that_of_yuens_test(n: int, confidence: float) -> None:
    """Against constant zeros scipy's two-sample test has no other spread: its t is mean / standard error."""
    values = np.random.default_rng(n).lognormal(size=n)
    test = scipy.stats.ttest_ind(values, np.zeros(n), equal_var=False, trim=0.25)
    t = scipy.stats.t.ppf((1 + confidence) / 2, n - 2 * (n // 4) - 1)
    estimate = interquartile_interval(values, confidence)
    assert estimate.mean == pytest.approx(interquartile_mean(values))
    assert estimate.half_width == pytest.approx(t * estimate.mean / test.statistic)


def test_interquartile_interval_is_not_moved_by_collapsed_seeds() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert interquartile_interval([-1000.0, -500.0, *values[2:]]) == interquartile_interval(values)


@pytest.mark.parametrize("end", [math.nan, math.inf, 0.0])
def test_no_interquartile_interval_without_eight_numbers_that_differ(end: float) -> None:
    assert not interquartile_interval(
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, end] if end else [0.5] * 8
    ).has_interval
    with pytest.raises(ValueError, match="at least 8 values; got 7"):
        interquartile_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, end])


def test_many_samples_at_once_have_each_its_own_interval() -> None:
    values_SN = np.random.default_rng(3).normal(2, 3, (5, 10))
    assert t_half_widths(values_SN, 0.9) == pytest.approx(
        [mean_interval(v, 0.9).half_width for v in values_SN]
    )
    trimmed = [interquartile_interval(v, 0.9).half_width for v in values_SN]
    assert interquartile_half_widths(values_SN, 0.9) == pytest.approx(trimmed)
