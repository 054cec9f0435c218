"""Over-optimization: how a judge's reward rises and falls with the distance to the base (Gao et al. 2023).

Arrays in, fits out, for one seed's path. d = √KL(π‖π_ref) [√nats]; R(d) is the judge's reward minus the base's. The
coefficients a and b are Gao et al.'s α and β: β here is the coefficient of the KL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Form = Literal["rl", "best_of_n"]
Peak = Literal["observed", "before", "beyond", "none"]
Trend = Literal["rising", "falling", "neither"]
MIN_POINTS = 3  # two parameters pass through any two points
NEARLY_ALL = 0.9  # of the largest KL: a path that ends nearer to the base than that came back


@dataclass(frozen=True)
class Fit:
    """R(d) = d·(a − b·log d) for RL, d·(a − b·d) for best-of-N (Gao et al. 2023)."""

    form: Form
    a: float
    b: float
    r_squared: float  # nan where the reward is the same at every point
    nearest: float  # the smallest KL above 0 of the path, nats
    furthest: float  # the largest

    def gain(self, kl: ArrayLike) -> np.ndarray:
        """Fitted R at each KL > 0: kl [...] nats → [...] in units of the reward."""
        d = np.sqrt(np.asarray(kl, dtype=float))
        return np.asarray(d * (self.a - self.b * _basis(d, self.form)))

    @property
    def follows(self) -> bool:
        """Whether the curve explains half of the points' variation: of less, its peak is none of the path's. Of a path
        that does not vary there is nothing to explain, and no peak either."""
        return self.r_squared >= 0.5

    @property
    def peak_kl(self) -> float:
        """KL at which the fitted reward is highest [nats]; nan where it has no highest point.

        RL: d* = e^{a/b − 1}; best-of-N: d* = a/(2b). Both need b > 0, else R rises without end or has a lowest point.
        """
        if self.b <= 0 or (self.form == "best_of_n" and self.a <= 0):
            return math.nan
        if self.form == "best_of_n":
            return (self.a / (2 * self.b)) ** 2
        exponent = 2 * (self.a / self.b - 1)
        return math.exp(exponent) if exponent < 700 else math.inf

    @property
    def peak(self) -> Peak:
        """Whether the peak was "observed" on the path, lies "before" its first evaluation or "beyond" its end, where a
        curve is a guess, or there is "none"."""
        if math.isnan(self.peak_kl):
            return "none"
        if self.peak_kl > self.furthest:
            return "beyond"
        return "observed" if self.peak_kl >= self.nearest else "before"

    @property
    def trend(self) -> Trend:
        """Where the fit goes at the path's furthest KL: "rising" only above the base, "falling", or "neither".

        Without a peak it need not rise: RL with b < 0 falls from the base to a lowest point at d = e^{a/b − 1}, and what
        turns up after it may still be below the base. Slope of RL: a − b·log d − b; of best-of-N: a − 2·b·d.
        """
        d = np.sqrt(self.furthest)
        basis = _basis(d, self.form)
        slope = self.a - self.b * (basis + 1 if self.form == "rl" else 2 * basis)
        if slope > 0 and self.gain(self.furthest) > 0:
            return "rising"
        return "falling" if slope < 0 else "neither"


def fit(kl_N: ArrayLike, gain_N: ArrayLike, form: Form = "rl") -> Fit | None:
    """Least squares over a path: kl_N [nats] and the reward's gain over the base at each point → Fit.

    Points at KL ≤ 0 or that are not finite say nothing of the shape and are left out. None with fewer than
    three distinct distances.
    """
    kl, gain = np.asarray(kl_N, dtype=float), np.asarray(gain_N, dtype=float)
    if kl.shape != gain.shape or kl.ndim != 1:
        raise ValueError(f"a path has one gain for each KL; got shapes {kl.shape} and {gain.shape}")
    usable = np.isfinite(kl) & np.isfinite(gain) & (kl > 0)
    kl, gain = kl[usable], gain[usable]
    if len(np.unique(kl)) < MIN_POINTS:
        return None
    d = np.sqrt(kl)
    design = np.stack([d, -d * _basis(d, form)], axis=-1)
    (a, b), *_ = np.linalg.lstsq(design, gain)
    left = gain - design @ (a, b)
    total = float(((gain - gain.mean()) ** 2).sum())
    r_squared = 1 - float((left**2).sum()) / total if np.ptp(gain) > 0 and total > 0 else math.nan
    return Fit(form, float(a), float(b), r_squared, float(kl.min()), float(kl.max()))


def came_back(kl_N: ArrayLike) -> bool:
    """Whether a path, in the order of training, ends well inside its largest KL [nats]: it then passed the same KL twice,
    half trained and trained, so that its reward is no function of KL. KL that are not finite are left out."""
    kl = np.asarray(kl_N, dtype=float)
    kl = kl[np.isfinite(kl)]
    return bool(len(kl) and kl[-1] < NEARLY_ALL * kl.max())


def _basis(d: np.ndarray, form: Form) -> np.ndarray:
    return np.log(d) if form == "rl" else d
