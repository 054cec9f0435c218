"""One arm against another: differences on the same seeds, their sizes, and many of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eval.stats.intervals import Estimate, mean_interval, no_spread, vector


@dataclass(frozen=True)
class Difference:
    """A paired mean difference: its interval, and the two-sided p-value of "no difference"."""

    estimate: Estimate
    p_value: float


def paired_difference(a: ArrayLike, b: ArrayLike) -> Difference:
    """Mean of a − b over pairs (the same seed, the same prompts) with t interval and paired t-test's p-value.

    a_N, b_N → Difference. The p-value is nan where there is no interval, but 1 where all differences are exactly 0:
    then the two are the same.
    """
    from scipy.stats import ttest_1samp

    a_N, b_N = vector(a), vector(b)
    if a_N.shape != b_N.shape:
        raise ValueError(f"paired values need equal numbers; got {len(a_N)} and {len(b_N)}")
    difference_N = a_N - b_N
    estimate = mean_interval(difference_N)
    if len(difference_N) > 0 and not difference_N.any():
        return Difference(estimate, 1.0)
    if not estimate.has_interval:
        return Difference(estimate, math.nan)
    return Difference(estimate, float(ttest_1samp(difference_N, 0.0).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down (Holm 1979); nan stays nan and does not count."""
    return [float(p) for p in holm_adjusted(vector(p_values))]


def holm_adjusted(p_XI: np.ndarray) -> np.ndarray:
    """The same along the last axis: p_XI → adjusted_XI. The kth smallest of m is max over i ≤ k of (m + 1 − i) p_i.

    Not by statsmodels' multipletests, the same numbers: it collects garbage at every call, a tenth of a second.
    """
    order_XI = np.argsort(p_XI, axis=-1)  # nan last
    known_X1 = np.sum(~np.isnan(p_XI), axis=-1, keepdims=True)
    stepped_XI = np.take_along_axis(p_XI, order_XI, axis=-1) * (known_X1 - np.arange(p_XI.shape[-1]))
    adjusted_XI = np.empty_like(p_XI)
    np.put_along_axis(
        adjusted_XI, order_XI, np.minimum(np.maximum.accumulate(stepped_XI, axis=-1), 1.0), axis=-1
    )
    return adjusted_XI


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Chance that a seed of a beats a seed of b, ties by half: P(a > b) + ½ P(a = b) (Agarwal et al. 2021).

    Mann and Whitney's U/(N·M), over all pairs of seeds and not only equal ones. a_N, b_M → in [0, 1]; nan where
    either is empty or has a nan.
    """
    a_N, b_M = vector(a), vector(b)
    if not len(a_N) or not len(b_M) or np.isnan(a_N).any() or np.isnan(b_M).any():
        return math.nan
    return float(np.mean(a_N[:, None] > b_M) + np.mean(a_N[:, None] == b_M) / 2)


def effect_size(differences: ArrayLike) -> float:
    """Hedges' g of paired differences: J · mean/s, without bias for Gaussian differences (Hedges 1981).

    J = Γ(m/2) / (√(m/2) · Γ((m−1)/2)) with m = n − 1. differences_N → in standard deviations of a seed's difference;
    nan where they have no spread, or are not finite, or are fewer than three: with two, mean/s has no expectation.
    """
    from scipy.special import gammaln

    differences_N = vector(differences)
    freedom = len(differences_N) - 1
    if freedom < 2 or not np.isfinite(differences_N).all() or no_spread(differences_N):
        return math.nan
    correction = math.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    return float(correction * np.mean(differences_N) / np.std(differences_N, ddof=1))
