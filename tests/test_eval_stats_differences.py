from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from eval.stats import effect_size, holm, paired_difference, probability_of_improvement
from eval.stats.differences import holm_adjusted


def test_paired_difference_is_scipys_paired_test() -> None:
    generator = np.random.default_rng(2)
    a = generator.normal(0, 1, 6)
    b = a + generator.normal(0.4, 0.3, 6)
    result = paired_difference(a, b)
    assert result.p_value == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (result.estimate.low, result.estimate.high) == pytest.approx(tuple(interval))


def test_no_pairs_give_no_p_value() -> None:
    assert math.isnan(paired_difference([], []).p_value)


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


@pytest.mark.parametrize("tests", [1, 3, 66])
def test_holm_is_statsmodels(tests: int) -> None:
    p_values = np.round(np.random.default_rng(tests).random(tests) ** 4, 3).tolist()  # small ones, and ties
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_of_many_families_at_once_is_that_of_each() -> None:
    p_SI = np.random.default_rng(5).random((20, 6)) ** 3
    p_SI[3, 2] = p_SI[4, 0] = p_SI[4, 5] = math.nan
    assert holm_adjusted(p_SI) == pytest.approx(np.array([holm(p_I) for p_I in p_SI]), nan_ok=True)


def test_probability_of_improvement_worked_by_hand() -> None:
    # 3 beats 1 and 2 and ties 3; 0 beats none: 2½ of 6 pairs
    assert probability_of_improvement([3.0, 0.0], [1.0, 2.0, 3.0]) == pytest.approx(2.5 / 6)
    assert probability_of_improvement([1.0, math.inf], [0.0]) == 1
    assert probability_of_improvement([-1000.0, 3.0, 4.0], [2.0]) == pytest.approx(2 / 3)


values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8)


@given(values, values)
def test_probability_of_improvement_is_mann_and_whitneys(a: list[float], b: list[float]) -> None:
    found = probability_of_improvement(a, b)
    assert found == pytest.approx(scipy.stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)))
    assert found + probability_of_improvement(b, a) == pytest.approx(1)


def test_no_probability_without_numbers() -> None:
    assert math.isnan(probability_of_improvement([], [1.0]))
    assert math.isnan(probability_of_improvement([1.0], [math.nan]))


def test_effect_size_worked_by_hand() -> None:
    # mean 2, s 1; with 2 degrees of freedom J = Γ(1) / (√1 · Γ(½)) = 1/√π
    assert effect_size([1.0, 2.0, 3.0]) == pytest.approx(2 / math.sqrt(math.pi))
    assert effect_size([-1.0, -2.0, -3.0]) == pytest.approx(-2 / math.sqrt(math.pi))


@pytest.mark.parametrize("n", [5, 10])
def test_effect_size_has_no_bias(n: int) -> None:
    draws_SN = np.random.default_rng(n).normal(0.8, 1, (20_000, n))
    found_S = [effect_size(draw_N) for draw_N in draws_SN]
    assert np.mean(found_S) == pytest.approx(0.8, abs=4 * np.std(found_S) / math.sqrt(len(found_S)))
    plain = np.mean(draws_SN.mean(-1) / draws_SN.std(-1, ddof=1))
    assert plain > 0.85  # what the correction is for


@pytest.mark.parametrize(
    "few", [[], [0.4], [0.4, 0.6], [0.4, 0.4, 0.4], [0.4, math.nan, 0.6], [0.4, math.inf, 0.6]]
)
def test_no_effect_size_where_it_is_not_defined(few: list[float]) -> None:
    assert math.isnan(effect_size(few))
