"""Seeds that are far from the others, and those that nobody has seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from eval.stats.intervals import negligible, vector

LEVEL = 0.05
"""Wanted share of Gaussian samples in which any value is called outlying."""


def outlying(values: ArrayLike) -> list[int]:
    """Indices of values far from the others, by the generalised extreme studentised deviate (Rosner 1983).

    The value farthest from the mean is taken out, then the next, up to ⌊(n−1)/2⌋ of them, so that several collapsed
    seeds do not hide each other. All up to the last that was too far for a Gaussian sample are outlying. Among
    Gaussian values some are called outlying in 2.5% to 6% of samples, at any n (docs/statistics.md).
    values_N → indices; none where n < 3. Values that are not finite are left out: they need no test.
    """
    values_N = vector(values)
    finite_N = np.flatnonzero(np.isfinite(values_N))
    if len(finite_N) < 3:
        return []
    return [int(i) for i in finite_N[outlying_mask(values_N[finite_N])]]


def outlying_mask(values_XN: np.ndarray) -> np.ndarray:
    """The same along the last axis: finite values_XN, N ≥ 3, → mask_XN.

    R_i = max |x − mean| / s over the m = n − i + 1 values left at step i, against
    λ_i = (m−1) t / √(m (m−2+t²)), t the quantile 1 − level/(2m) with m − 2 degrees of freedom.
    """
    n = values_XN.shape[-1]
    steps = (n - 1) // 2
    level = LEVEL / min(steps, 2)  # a second step doubles the false alarms, further ones hardly add any
    left_XN = np.ones(values_XN.shape, dtype=bool)
    outlying_XN = np.zeros(values_XN.shape, dtype=bool)
    for m in range(n, n - steps, -1):
        mean_X1 = np.mean(values_XN, axis=-1, keepdims=True, where=left_XN)
        sd_X1 = np.std(values_XN, axis=-1, ddof=1, keepdims=True, where=left_XN)
        distance_XN = np.where(left_XN, np.abs(values_XN - mean_X1), -1.0)
        farthest_X1 = np.argmax(distance_XN, axis=-1, keepdims=True)
        np.put_along_axis(left_XN, farthest_X1, False, axis=-1)
        far_X1 = np.take_along_axis(distance_XN, farthest_X1, axis=-1) > _critical(m, level) * sd_X1
        outlying_XN = np.where(far_X1 & ~negligible(sd_X1, values_XN), ~left_XN, outlying_XN)
    return outlying_XN


def unseen_share(n: int) -> float:
    """Largest share of seeds that may fail in a way of which n ≥ 1 seeds show none: 1 − 0.05^{1/n}.

    Were the share larger, n seeds would have shown it with 95% confidence; about 3/n (Hanley and Lippman-Hand 1983).
    """
    return 1 - 0.05 ** (1 / n)


def _critical(m: int, level: float) -> float:
    """Rosner's λ for the farthest of m values."""
    from scipy.stats import t

    quantile = float(t.isf(level / (2 * m), m - 2))
    return (m - 1) * quantile / float(np.sqrt(m * (m - 2 + quantile**2)))
