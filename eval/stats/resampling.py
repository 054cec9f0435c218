"""The bootstrap over prompts, which are many; not over seeds, which are few."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from eval.stats.intervals import Estimate, no_spread, vector


def bootstrap_means(values_PK: ArrayLike, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `draws` resamplings of the rows (Efron 1979): values_PK → means_RK.

    A row is a prompt. Its K columns are drawn together, so that differences and ratios of columns keep their pairing.
    """
    array_PK = np.asarray(values_PK, dtype=float)
    if array_PK.ndim != 2 or not len(array_PK):
        raise ValueError(
            f"K numbers for each of P prompts are expected; got an array of shape {array_PK.shape}"
        )
    prompts = len(array_PK)
    drawn_RP = rng.integers(prompts, size=(draws, prompts)) + prompts * np.arange(draws)[:, None]
    counts_RP = np.bincount(drawn_RP.ravel(), minlength=draws * prompts).reshape(draws, prompts)
    return counts_RP @ array_PK / prompts


def bootstrap_levels(prompts: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two quantiles of resampled means that make an interval: Hesterberg's (2015) expanded percentiles.

    Resampled means spread too little by √((P−1)/P), and their quantiles are Gaussian where t's are due. So instead of
    α/2 the level Φ(−√(P/(P−1)) · t_{P−1}) is taken, and its opposite. P ≥ 2 prompts → (low, high) in [0, 1].
    """
    from scipy.stats import norm, t

    low = float(norm.cdf(math.sqrt(prompts / (prompts - 1)) * t.ppf((1 - confidence) / 2, prompts - 1)))
    return low, 1 - low


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, draws: int = 2000
) -> Estimate:
    """Mean over prompts with the bias-corrected accelerated bootstrap interval (Efron 1987) at expanded levels.

    For 16 prompts and more; of the bootstraps in docs/statistics.md it covers best where rewards are skewed or
    bounded. values_P → Estimate; nan bounds where P < 2, a value is not finite, or all are equal.
    """
    from scipy.stats import bootstrap

    values_P = vector(values)
    n = len(values_P)
    mean = float(np.mean(values_P)) if n else math.nan
    if n < 2 or not np.isfinite(values_P).all() or no_spread(values_P):
        return Estimate(mean, math.nan, math.nan, n)
    low, high = bootstrap_levels(n, confidence)
    found = bootstrap(
        (values_P,), np.mean, n_resamples=draws, confidence_level=high - low, method="BCa", rng=rng
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), n)
