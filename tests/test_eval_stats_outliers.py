from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from eval.stats import outlying, unseen_share
from eval.stats.outliers import _critical, outlying_mask


def test_critical_values_are_rosners() -> None:
    """λ at 5% for his example of 54 values (Rosner 1983), to the three digits that are published."""
    assert [round(_critical(m, 0.05), 3) for m in (54, 53, 52)] == [3.159, 3.151, 3.144]


@pytest.mark.parametrize(("n", "published"), [(3, 1.1543), (4, 1.4812)])
def test_with_three_and_four_seeds_it_is_grubbs_test(n: int, published: float) -> None:
    """One value can be taken out, so a sample has one where max |x − mean| / s is beyond the two-sided 5% point."""
    values_SN = np.random.default_rng(n).normal(size=(2000, n))
    grubbs_S = np.abs(values_SN - values_SN.mean(-1, keepdims=True)).max(-1) / values_SN.std(-1, ddof=1)
    found_S = np.array([len(outlying(values_N)) for values_N in values_SN])
    assert ((grubbs_S > published) == (found_S == 1)).mean() > 0.998  # published to four digits
    assert found_S.max() == 1


@pytest.mark.parametrize("n", [3, 4, 5, 7, 9, 12, 20, 40])
def test_false_alarms_are_as_documented(n: int) -> None:
    found = outlying_mask(np.random.default_rng(n).normal(size=(20_000, n))).any(-1).mean()
    assert 0.02 < found < 0.065


def test_collapsed_seeds_are_found_and_do_not_hide_each_other() -> None:
    assert outlying([0.76, 0.76, 0.77, 0.26, 0.75]) == [3]
    healthy = [0.71, 0.74, 0.72, 0.75, 0.73, 0.70]
    assert outlying(healthy) == []
    assert outlying([0.1, *healthy, 0.12]) == [0, 7]
    assert outlying([0.1, *healthy[:3]]) == [0]


def test_a_majority_is_never_outlying() -> None:
    values_SN = np.concatenate([np.zeros((1, 4)), np.ones((1, 5)) * 9], axis=1) + np.linspace(0, 0.1, 9)
    assert outlying(values_SN[0]) == [0, 1, 2, 3]
    for n in range(3, 12):
        values_SN = np.random.default_rng(n).standard_cauchy((500, n))
        assert outlying_mask(values_SN).sum(-1).max() <= (n - 1) // 2


@pytest.mark.parametrize("few", [[], [1.0], [1.0, 9.0], [0.3, 0.3, 0.3], [0.1 + 0.2, *[0.3] * 9]])
def test_nothing_is_outlying_without_three_or_without_spread(few: list[float]) -> None:
    assert outlying(few) == []


def test_one_that_differs_among_equal_ones_is_outlying() -> None:
    assert outlying([0.3, 0.3, 0.4, 0.3, 0.3, 0.3]) == [2]


def test_what_is_not_finite_is_left_out_of_the_test() -> None:
    values = [0.76, math.nan, 0.75, 0.77, math.inf, 0.26, 0.76]
    assert outlying(values) == [5]
    assert outlying([math.nan, 1.0, 2.0]) == []


@given(st.lists(st.integers(-20, 20), min_size=3, max_size=12), st.randoms(use_true_random=False))
def test_neither_unit_nor_order_matters(whole: list[int], random: object) -> None:
    values = np.array(whole, dtype=float)
    if len(set(whole)) < len(whole):  # which of two equal values is taken out first is no matter of the data
        values += np.linspace(0, 0.37, len(values)) ** 2
    expected = {values[i] for i in outlying(values)}
    assert {values[i] for i in outlying(-8 * values + 64)} == expected
    order = np.random.default_rng(len(values)).permutation(len(values))
    assert {values[order][i] for i in outlying(values[order])} == expected


def test_many_samples_at_once_have_each_its_own() -> None:
    values_SN = np.random.default_rng(0).standard_t(2, size=(300, 9))
    found = [np.flatnonzero(mask_N).tolist() for mask_N in outlying_mask(values_SN)]
    assert found == [outlying(values_N) for values_N in values_SN]
    assert any(found)


@pytest.mark.parametrize("n", [1, 5, 30])
def test_unseen_share_is_the_exact_bound_of_no_failure(n: int) -> None:
    """Clopper and Pearson's one-sided bound where none of n failed."""
    exact = scipy.stats.binomtest(0, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert unseen_share(n) == pytest.approx(exact)
