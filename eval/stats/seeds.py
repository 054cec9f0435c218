"""How many seeds it takes: power of the paired t-test."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import ArrayLike

from eval.stats.intervals import no_spread, vector


def power(mean: float, sd: float, n: int, comparisons: int = 1, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t-test of n seeds at level alpha/comparisons finds a true difference.

    `mean` and `sd` are the true ones of a seed's difference; exact for Gaussian differences. Among several
    comparisons it is the power of Bonferroni's test, which Holm's never falls below. → in [0, 1]; nan where n < 2 or
    `sd` is not above 0.
    """
    if n < 2 or not sd > 0:
        return math.nan
    return _power(mean / sd, n, alpha / comparisons)


def seeds_needed(
    differences: ArrayLike,
    comparisons: int = 1,
    power: float = 0.8,
    alpha: float = 0.05,
    most: int = 1000,
) -> int | None:
    """Smallest number of seeds, those at hand counted, whose paired t-test would find the measured difference.

    differences_N → the smallest n ≥ 2 with that power at level alpha/comparisons, were the measured mean and standard
    deviation the true ones; None where it is above `most`, or where the values are fewer than two, without spread or
    not finite. A few seeds know both badly: docs/statistics.md measures how often the promise is kept.
    """
    differences_N = vector(differences)
    if len(differences_N) < 2 or not np.isfinite(differences_N).all() or no_spread(differences_N):
        return None
    effect = float(np.mean(differences_N) / np.std(differences_N, ddof=1))
    candidates = range(2, most + 1)
    enough = bisect_left(candidates, True, key=lambda n: _power(effect, n, alpha / comparisons) >= power)
    return candidates[enough] if enough < len(candidates) else None


def _power(effect: float, n: int, level: float) -> float:
    """P(T² > t²), T² noncentral F with 1 and n − 1 degrees of freedom and noncentrality n·effect².

    Not by the noncentral t of statsmodels' TTestPower, the same number: scipy's is nan for large noncentralities.
    """
    from scipy.stats import f, ncf

    # Beyond these bounds scipy's ncf is wrong or nan, and the power is the level or 1 to as many digits.
    noncentrality = min(n * effect**2, 1e15)
    if noncentrality < 1e-12:
        return level
    return float(ncf.sf(f.isf(level, 1, n - 1), 1, n - 1, noncentrality))
