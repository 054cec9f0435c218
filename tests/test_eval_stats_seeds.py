from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from eval.stats import power, seeds_needed


@pytest.mark.parametrize("effect", [0.01, 0.3, -0.8, 1.0, 2.5])
@pytest.mark.parametrize("n", [2, 3, 5, 12, 30])
@pytest.mark.parametrize("comparisons", [1, 3, 66])
def test_power_is_statsmodels(effect: float, n: int, comparisons: int) -> None:
    larger, smaller = (
        TTestPower().power(abs(effect), n, 0.025 / comparisons, alternative=side)
        for side in ("larger", "smaller")
    )
    # statsmodels loses the other tail, which then is below 1e-9, to nan
    assert power(3 * effect, 3.0, n, comparisons) == pytest.approx(larger + np.nan_to_num(smaller), abs=1e-9)


def test_power_is_what_a_simulation_finds() -> None:
    draws_NS = np.random.default_rng(0).normal(0.9, 1, (6, 20_000))
    found = np.mean(scipy.stats.ttest_1samp(draws_NS, 0).pvalue < 0.05 / 3)
    assert power(0.9, 1, 6, comparisons=3) == pytest.approx(found, abs=0.01)


def test_power_without_a_difference_is_the_level() -> None:
    assert power(0.0, 1.0, 5) == 0.05
    assert power(1e-5, 1.0, 5, comparisons=5) == pytest.approx(0.01)
    assert power(0.0, 1.0, 5, alpha=0.2) == 0.2


@pytest.mark.parametrize("effect", [0.01, 0.3, 5.0, 1e3, 1e12])
def test_power_grows_to_one_and_is_never_lost(effect: float) -> None:
    """Where statsmodels' is nan: large effects, many seeds."""
    found = np.array(
        [power(effect, 1, n, comparisons) for comparisons in (66, 1) for n in (2, 3, 5, 50, 1000)]
    )
    assert ((found > 0) & (found <= 1)).all()
    assert (np.diff(found.reshape(2, 5)) >= -1e-9).all()
    assert power(effect, 1, 10**7) == pytest.approx(1)


@pytest.mark.parametrize(("sd", "n"), [(1.0, 1), (1.0, 0), (0.0, 5), (-1.0, 5), (math.nan, 5)])
def test_no_power_where_there_is_no_test(sd: float, n: int) -> None:
    assert math.isnan(power(1.0, sd, n))


def test_seeds_needed_is_statsmodels_rounded_up() -> None:
    differences = np.random.default_rng(1).normal(0.4, 1, 8)
    effect = abs(differences.mean() / differences.std(ddof=1))
    for comparisons in (1, 3):
        exact = TTestPower().solve_power(effect, power=0.8, alpha=0.05 / comparisons)
        assert seeds_needed(differences, comparisons) == math.ceil(exact)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=8),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.sampled_from([1, 6]),
)
def test_seeds_needed_is_the_smallest_number(
    differences: list[float], wanted: float, comparisons: int
) -> None:
    needed = seeds_needed(differences, comparisons, wanted, most=300)
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    reached = [n for n in range(2, 301) if power(mean, sd, n, comparisons) >= wanted] if sd > 0 else []
    assert needed == (reached[0] if reached else None)


def test_seeds_that_nearly_agree_need_two() -> None:
    assert seeds_needed([1.0, 1.0 + 1e-10, 1.0 - 1e-10]) == 2


def test_no_more_than_most() -> None:
    needed = seeds_needed([1.0, -1.0, 0.5, 0.5])
    assert needed is not None
    assert seeds_needed([1.0, -1.0, 0.5, 0.5], most=needed) == needed
    assert seeds_needed([1.0, -1.0, 0.5, 0.5], most=needed - 1) is None


@pytest.mark.parametrize(
    "few", [[], [0.5], [0.5, 0.5, 0.5], [0.0, 0.0], [0.5, math.nan], [0.5, math.inf], [-1.0, 1.0]]
)
def test_no_number_of_seeds_where_nothing_is_known(few: list[float]) -> None:
    assert seeds_needed(few) is None
