"""How often intervals over seeds and over prompts hold the true mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import trim_mean

from benchmarks.coverage.populations import PROMPTS, SEEDS, Draw, Population
from benchmarks.page import markdown, rate, signed
from eval import stats
from eval.stats.intervals import interquartile_half_widths, t_half_widths

SIMULATIONS = 100_000
SEED_COUNTS = (3, 5, 10, 20)
INTERQUARTILE_COUNTS = (8, 12, 20)
PROMPT_COUNTS = (16, 64)
BOOTSTRAPPED = 10_000
BOOTSTRAPPED_ALONE = 3_000
DRAWS = 2_000
CONFIDENCE = 0.95
PLAIN = (0.025, 0.975)


def t_intervals(rng: np.random.Generator) -> str:
    """Student's t over seeds."""

    def covered(population: Population, n: int) -> str:
        values_SN = population.draw(rng, (SIMULATIONS, n))
        return rate(np.abs(values_SN.mean(-1) - population.mean) <= t_half_widths(values_SN, CONFIDENCE))

    return _by_population(covered, SEED_COUNTS)


def percentile_intervals(rng: np.random.Generator) -> str:
    """The percentile bootstrap over seeds."""

    def covered(population: Population, n: int) -> str:
        values_SN = population.draw(rng, (BOOTSTRAPPED, n))
        return percentile_covered(values_SN, population.mean, PLAIN, rng)

    return _by_population(covered, SEED_COUNTS)


def interquartile_intervals(rng: np.random.Generator) -> str:
    """The interquartile mean over seeds, against the population's."""

    def covered(population: Population, n: int) -> str:
        values_SN = population.draw(rng, (SIMULATIONS, n))
        error_S = np.abs(trim_mean(values_SN, 0.25, axis=-1) - population.interquartile_mean)
        return rate(error_S <= interquartile_half_widths(values_SN, CONFIDENCE))

    head = ["seeds", *(f"n = {n}" for n in INTERQUARTILE_COUNTS), "true mean", "true interquartile mean"]
    rows = [
        [
            population.name,
            *(covered(population, n) for n in INTERQUARTILE_COUNTS),
            signed(population.mean),
            signed(population.interquartile_mean),
        ]
        for population in SEEDS
    ]
    return markdown(head, rows)


def prompt_intervals(rng: np.random.Generator) -> str:
    """t and three bootstraps over prompts."""
    methods = ("t", "percentile", "expanded percentile", "expanded BCa")
    head = ["prompts", *(f"{method}, P = {n}" for n in PROMPT_COUNTS for method in methods)]
    rows = [
        [name, *(share for n in PROMPT_COUNTS for share in _prompts_covered(*source, n, rng))]
        for name, source in PROMPTS.items()
    ]
    return markdown(head, rows)


def percentile_covered(
    values_SN: np.ndarray, mean: float, levels: tuple[float, float], rng: np.random.Generator
) -> str:
    """How often quantiles of resampled means hold the mean.

    Every 250 samples share their resamplings, which changes no sample's own distribution and is a
    hundred times faster.
    """
    held = []
    for part_SN in np.array_split(values_SN, len(values_SN) // 250):
        low_S, high_S = np.quantile(stats.bootstrap_means(part_SN.T, DRAWS, rng), levels, axis=0)
        held.append((low_S <= mean) & (mean <= high_S))
    return rate(np.concatenate(held))


def _prompts_covered(draw: Draw, mean: float, n: int, rng: np.random.Generator) -> list[str]:
    values_SN = draw(rng, (SIMULATIONS, n))
    by_t = np.abs(values_SN.mean(-1) - mean) <= t_half_widths(values_SN, CONFIDENCE)
    few_SN = values_SN[:BOOTSTRAPPED]
    by_bca = [
        estimate.low <= mean <= estimate.high  # no interval holds nothing
        for estimate in (stats.bootstrap_interval(values_N, rng) for values_N in few_SN[:BOOTSTRAPPED_ALONE])
    ]
    return [
        rate(by_t),
        percentile_covered(few_SN, mean, PLAIN, rng),
        percentile_covered(few_SN, mean, stats.bootstrap_levels(n), rng),
        rate(by_bca),
    ]


def _by_population(covered: Callable[[Population, int], str], counts: Sequence[int]) -> str:
    rows = [[population.name, *(covered(population, n) for n in counts)] for population in SEEDS]
    return markdown(["seeds", *(f"n = {n}" for n in counts)], rows)
