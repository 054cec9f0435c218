"""Where simulated seeds and prompts come from, with their true means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Population:
    """A distribution with its mean, and its quantile function for the interquartile mean."""

    name: str
    draw: Draw
    mean: float
    quantile: Callable[[float], float]

    @property
    def interquartile_mean(self) -> float:
        """The mean between the quartiles: 2 ∫ Q(u) du from ¼ to ¾."""
        return 2 * quad(self.quantile, 0.25, 0.75)[0]


def collapsed(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Which seeds collapse: each by itself, with the same chance."""
    return rng.random(shape) < share


def collapsing(name: str, share: float, depth: float) -> Population:
    """Gaussian seeds of standard deviation 1, of which a share falls by `depth`."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(size=shape) - depth * collapsed(rng, shape, share)

    def quantile(u: float) -> float:
        def above(x: float) -> float:
            return (1 - share) * norm.cdf(x) + share * norm.cdf(x + depth) - u

        return brentq(above, -depth - 10, 10)

    return Population(name, draw, -share * depth, quantile)


GAUSSIAN = Population("Gaussian", lambda rng, shape: rng.normal(size=shape), 0.0, norm.ppf)
EXPONENTIAL = Population(
    "exponential (skewness 2)", lambda rng, shape: rng.exponential(size=shape), 1.0, lambda u: -np.log1p(-u)
)
LOGNORMAL = Population(
    "lognormal (skewness 6.2)",
    lambda rng, shape: rng.lognormal(size=shape),
    float(np.exp(0.5)),
    lambda u: float(np.exp(norm.ppf(u))),
)
SEEDS = (
    GAUSSIAN,
    EXPONENTIAL,
    LOGNORMAL,
    collapsing("a quarter collapses by 10 sd", 0.25, 10),
    collapsing("a tenth collapses by 10 sd", 0.1, 10),
    collapsing("a quarter collapses by 50 sd", 0.25, 50),
    collapsing("a tenth collapses by 50 sd", 0.1, 50),
)
"""Final values of an arm's seeds. In a collapse that docs/findings.md shows, a seed fell by about 70 sd of the others."""


def right_of_four(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A prompt's mean over four responses, each right with chance 0.9."""
    return rng.binomial(4, 0.9, shape) / 4


PROMPTS: dict[str, tuple[Draw, float]] = {
    GAUSSIAN.name: (GAUSSIAN.draw, GAUSSIAN.mean),
    EXPONENTIAL.name: (EXPONENTIAL.draw, EXPONENTIAL.mean),
    LOGNORMAL.name: (LOGNORMAL.draw, LOGNORMAL.mean),
    "bounded, most near 0 or 1: Beta(½, ½)": (lambda rng, shape: rng.beta(0.5, 0.5, shape), 0.5),
    "bounded, near its top: Beta(5, 1)": (lambda rng, shape: rng.beta(5, 1, shape), 5 / 6),
    "4 responses, each right with 0.9": (right_of_four, 0.9),
}
"""Values of a comparison's prompts: how they are drawn, and their true mean."""
