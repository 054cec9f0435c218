from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import scipy.stats

from eval.stats import bootstrap_interval, bootstrap_levels, bootstrap_means, mean_interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_resampling_of_three_rows_is_equally_likely() -> None:
    values_PK = np.array([[1.0], [10.0], [100.0]])
    drawn = Counter(np.round(3 * bootstrap_means(values_PK, 27_000, rng())[:, 0]).astype(int).tolist())
    expected = Counter(int(sum(rows)) for rows in product([1, 10, 100], repeat=3))
    assert drawn.keys() == expected.keys()
    test = scipy.stats.chisquare([drawn[k] for k in expected], [1000 * expected[k] for k in expected])
    assert test.pvalue > 0.001


def test_columns_of_a_prompt_stay_together() -> None:
    first_P = rng(1).normal(size=16)
    means_RK = bootstrap_means(np.stack([first_P, 2 * first_P + 1, np.ones(16)], axis=1), 50, rng())
    assert means_RK.shape == (50, 3)
    assert means_RK[:, 1] == pytest.approx(2 * means_RK[:, 0] + 1)
    assert means_RK[:, 2] == pytest.approx(1)
    assert len(set(means_RK[:, 0])) == 50


def test_the_same_generator_gives_the_same_and_another_differs() -> None:
    values_P = rng(2).normal(size=20)
    assert np.array_equal(
        bootstrap_means(values_P[:, None], 9, rng(3)), bootstrap_means(values_P[:, None], 9, rng(3))
    )
    assert not np.array_equal(
        bootstrap_means(values_P[:, None], 9, rng(3)), bootstrap_means(values_P[:, None], 9, rng(4))
    )
    assert bootstrap_interval(values_P, rng(3)) == bootstrap_interval(values_P, rng(3))
    assert bootstrap_interval(values_P, rng(3)) != bootstrap_interval(values_P, rng(4))
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    bootstrap_interval(values_P, rng(3))
    assert np.array_equal(np.random.get_state()[1], state)  # no global stream is touched


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 3, 4)])
def test_a_row_a_prompt(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="K numbers for each of P prompts"):
        bootstrap_means(np.zeros(shape), 5, rng())


def test_levels_widen_gaussian_percentiles_to_ts() -> None:
    """Resampled means of P values have standard deviation s·√((P−1)/P)/√P: their Gaussian quantile is t's half width."""
    for prompts, confidence in ((16, 0.95), (64, 0.8), (3, 0.95)):
        low, high = bootstrap_levels(prompts, confidence)
        values_P = rng(prompts).normal(size=prompts)
        spread = np.std(values_P) / math.sqrt(prompts)
        assert -scipy.stats.norm.ppf(low) * spread == pytest.approx(
            mean_interval(values_P, confidence).half_width
        )
        assert low + high == pytest.approx(1)
    assert bootstrap_levels(10**6) == pytest.approx((0.025, 0.975), abs=1e-5)


def test_interval_is_scipys_at_the_expanded_levels() -> None:
    values_P = rng(5).exponential(size=16)
    low, high = bootstrap_levels(16, 0.9)
    expected = scipy.stats.bootstrap(
        (values_P,), np.mean, n_resamples=500, confidence_level=high - low, method="BCa", rng=rng(6)
    ).confidence_interval
    found = bootstrap_interval(values_P, rng(6), 0.9, 500)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.n) == (pytest.approx(values_P.mean()), 16)


def test_interval_leans_to_where_the_rewards_are_skewed() -> None:
    values_P = np.exp(scipy.stats.norm.ppf((np.arange(32) + 0.5) / 32))
    found = bootstrap_interval(values_P, rng())
    assert found.high - found.mean > 1.2 * (found.mean - found.low)


def test_interval_covers_what_it_promises_with_sixteen_prompts() -> None:
    generator = rng(8)
    found = [bootstrap_interval(generator.beta(5, 1, 16), generator, draws=500) for _ in range(600)]
    assert 0.92 < np.mean([e.low <= 5 / 6 <= e.high for e in found]) < 0.975


@pytest.mark.parametrize("few", [[], [0.5], [0.5] * 16, [0.5, math.nan, 0.7], [0.5, math.inf, 0.7]])
def test_no_interval_without_prompts_that_differ(few: list[float]) -> None:
    estimate = bootstrap_interval(few, rng())
    assert not estimate.has_interval
    assert estimate.n == len(few)
