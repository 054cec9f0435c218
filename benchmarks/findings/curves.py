"""Gao et al. 2022: gold as a function of d = √KL, fitted by least squares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Fit:
    """y ≈ d·(a − b·f(d)) with f = log (`rl`) or the identity (`best_of_n`); y is the gain over the base."""

    form: str
    a: float
    b: float
    r_squared: float

    def __call__(self, d: ArrayLike) -> np.ndarray:
        d_K = np.asarray(d, dtype=float)
        return d_K * (self.a - self.b * _inner(self.form, d_K))

    @property
    def peak_kl(self) -> float:
        """KL in nats where the curve is highest; nan where it has no maximum (b ≤ 0)."""
        if self.b <= 0:
            return math.nan
        # d/dd of d(a − b·log d) is a − b − b·log d; of d(a − b·d) it is a − 2bd.
        d = math.exp(self.a / self.b - 1) if self.form == "rl" else self.a / (2 * self.b)
        return d**2


def fit(kl: ArrayLike, gain: ArrayLike, form: str) -> Fit:
    """kl_K [nats] > 0, gain_K → the least-squares curve, linear in a and b. R² is against the mean gain."""
    from scipy.linalg import lstsq

    d_K, gain_K = np.sqrt(np.asarray(kl, dtype=float)), np.asarray(gain, dtype=float)
    a, b = lstsq(np.stack([d_K, -d_K * _inner(form, d_K)], axis=-1), gain_K)[0]
    found = Fit(form, float(a), float(b), math.nan)
    unexplained = float(np.sum((gain_K - found(d_K)) ** 2))
    total = float(np.sum((gain_K - gain_K.mean()) ** 2))
    return Fit(form, float(a), float(b), 1 - unexplained / total)


def _inner(form: str, d_K: np.ndarray) -> np.ndarray:
    return np.log(d_K) if form == "rl" else d_K
