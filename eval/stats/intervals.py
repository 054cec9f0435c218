"""Means of independent values, and how far they are from being known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MIN_SEEDS_INTERQUARTILE = 8  # below, a quarter at each end is less than two seeds


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval; the bounds are nan where `n` values cannot give one."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's width, in the unit of the values; nan without an interval."""
        return (self.high - self.low) / 2

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def negated(self) -> Estimate:
        """The same of b − a where this is of a − b."""
        return Estimate(-self.mean, -self.high, -self.low, self.n)

    @property
    def excludes_zero(self) -> bool:
        """True where the interval exists and lies wholly on one side of 0."""
        return self.has_interval and (self.low > 0 or self.high < 0)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of independent values with Student's t interval: m ± t_{n−1} · s/√n (Student 1908).

    Exact for Gaussian values; too narrow for skewed or collapsing seeds, which no interval of a few seeds can
    know about. The percentile bootstrap is not used: at three seeds it covers 75% where it promises 95%. Both are
    measured in docs/statistics.md.
    values_N → Estimate; n = 1 or a value that is not finite gives nan bounds, n = 0 a nan mean too. Equal values
    give nan bounds as well: seeds that change nothing say nothing about the spread between seeds.
    """
    values_N = vector(values)
    n = len(values_N)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    with np.errstate(invalid="ignore"):  # inf − inf is nan, which is the answer wanted
        mean = float(np.mean(values_N))
    if n == 1 or not math.isfinite(mean) or no_spread(values_N):
        return Estimate(mean, math.nan, math.nan, n)
    half = float(t_half_widths(values_N, confidence))
    return Estimate(mean, mean - half, mean + half, n)


def combined(first: Estimate, second: Estimate) -> Estimate:
    """The first mean with the uncertainty of both, two independent sources of error: distances from mean to bound add
    in quadrature (the method of variance estimates recovery, Zou and Donner 2008). nan bounds where either has none.
    """
    below = math.hypot(first.mean - first.low, second.mean - second.low)
    above = math.hypot(first.high - first.mean, second.high - second.mean)
    return Estimate(first.mean, first.mean - below, first.mean + above, first.n)


def t_half_widths(values_XN: np.ndarray, confidence: float) -> np.ndarray:
    """Half of Student's t interval along the last axis: values_XN, N ≥ 2, → half_X."""
    from scipy.stats import t

    n = values_XN.shape[-1]
    return t.ppf((1 + confidence) / 2, n - 1) * np.std(values_XN, axis=-1, ddof=1) / math.sqrt(n)


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half (Agarwal et al. 2021): one collapsed seed does not move it.

    values_N, N ≥ 8, → a number; ⌊N/4⌋ values are left out at each end.
    """
    from scipy.stats import trim_mean

    return float(trim_mean(_enough(values), 0.25))


def interquartile_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Interquartile mean with the trimmed mean's t interval (Tukey and McLaughlin 1963; Yuen 1974).

    m ± t_{h−1} · √((n−1) s_w² / (h(h−1))), where g = ⌊n/4⌋ values are left out at each end, h = n − 2g stay, and s_w
    is the standard deviation of the values with those g drawn in to their nearest neighbour that stays.
    values_N, N ≥ 8, → Estimate; equal values in the middle, or a value that is not finite, give nan bounds.
    """
    values_N = _enough(values)
    mean, n = interquartile_mean(values_N), len(values_N)
    if not np.isfinite(values_N).all() or no_spread(winsorised(values_N)):
        return Estimate(mean, math.nan, math.nan, n)
    half = float(interquartile_half_widths(values_N, confidence))
    return Estimate(mean, mean - half, mean + half, n)


def interquartile_half_widths(values_XN: np.ndarray, confidence: float) -> np.ndarray:
    """Half of the trimmed mean's t interval along the last axis: values_XN, N ≥ 8, → half_X."""
    from scipy.stats import t

    n = values_XN.shape[-1]
    kept = n - 2 * (n // 4)
    variance_X = np.var(winsorised(values_XN), axis=-1, ddof=1)
    return t.ppf((1 + confidence) / 2, kept - 1) * np.sqrt((n - 1) * variance_X / (kept * (kept - 1)))


def winsorised(values_XN: np.ndarray) -> np.ndarray:
    """A quarter at each end drawn in to the nearest value that stays, along the last axis; sorted."""
    values_XN = np.sort(values_XN, axis=-1)
    n = values_XN.shape[-1]
    cut = n // 4
    return np.clip(values_XN, values_XN[..., cut, None], values_XN[..., n - cut - 1, None])


def vector(values: ArrayLike) -> np.ndarray:
    """values_N as floats; any other shape is an error."""
    vector_N = np.asarray(values, dtype=float)
    if vector_N.ndim != 1:
        raise ValueError(f"one number a seed is expected; got an array of shape {vector_N.shape}")
    return vector_N


def no_spread(values_N: np.ndarray) -> bool:
    """Equal up to rounding: a standard deviation of 1e-17 would make any mean look certain."""
    return bool(negligible(np.ptp(values_N, keepdims=True), values_N)[0])


def negligible(spread_X1: np.ndarray, values_XN: np.ndarray) -> np.ndarray:
    """Where a spread of values is no more than their rounding: spread_X1, values_XN → mask_X1."""
    return spread_X1 <= 1e-12 * np.maximum(1.0, np.max(np.abs(values_XN), axis=-1, keepdims=True))


def _enough(values: ArrayLike) -> np.ndarray:
    values_N = vector(values)
    if len(values_N) < MIN_SEEDS_INTERQUARTILE:
        raise ValueError(
            f"the interquartile mean needs at least {MIN_SEEDS_INTERQUARTILE} values; got {len(values_N)}"
        )
    return values_N
