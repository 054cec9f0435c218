"""Claims that one arm differs from another: false ones, and true ones that are found."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.stats import ttest_1samp

from benchmarks.page import markdown, percent, rate
from eval import stats
from eval.stats.differences import holm_adjusted
from eval.stats.intervals import t_half_widths

ALPHA = 0.05
FAMILIES = 10_000
POWER_SIMULATIONS = 100_000


def family_errors(rng: np.random.Generator) -> str:
    """Chance of any false claim among all pairs of arms, which share seeds and each other's values."""
    head = ["arms", "pairs", "truth", "seeds", "no correction", "Holm"]
    rows = []
    for arms in (3, 12):
        pairs = list(combinations(range(arms), 2))
        for truth, effects_A in (
            ("all equal", np.zeros(arms)),
            ("one differs by 2 sd", 2.0 * (np.arange(arms) == 0)),
        ):
            null_I = np.array([effects_A[i] == effects_A[j] for i, j in pairs])
            for n in (3, 5, 10):
                p_SI = _p_values(effects_A, pairs, n, FAMILIES, rng)
                adjusted_SI = holm_adjusted(p_SI)
                shares = [rate((found_SI[:, null_I] < ALPHA).any(-1)) for found_SI in (p_SI, adjusted_SI)]
                rows.append([str(arms), str(len(pairs)), truth, str(n), *shares])
    return markdown(head, rows)


def powers(rng: np.random.Generator) -> str:
    """Power of the paired t-test: predicted, and found in simulation."""
    head = ["true difference", "seeds", "predicted", "found", "predicted, 3 pairs", "found by Holm, 3 pairs"]
    rows = []
    for effect in (0.5, 1.0, 2.0):
        for n in (3, 5, 10, 20):
            values_SN = rng.normal(effect, 1, (POWER_SIMULATIONS, n))
            found = rate(np.abs(values_SN.mean(-1)) > t_half_widths(values_SN, 1 - ALPHA))
            # Arms differ by a seed's noise each, 1/√2, so that a difference of two has standard deviation 1.
            effects_A = np.array([effect, 0.0, 0.0]) * np.sqrt(2)
            p_SI = _p_values(effects_A, list(combinations(range(3), 2)), n, FAMILIES, rng)
            by_holm = holm_adjusted(p_SI)[:, 0] < ALPHA
            predicted = [percent(stats.power(effect, 1, n, comparisons)) for comparisons in (1, 3)]
            rows.append([f"{effect:g} sd", str(n), predicted[0], found, predicted[1], rate(by_holm)])
    return markdown(head, rows)


def _p_values(
    effects_A: np.ndarray, pairs: list[tuple[int, int]], n: int, simulations: int, rng: np.random.Generator
) -> np.ndarray:
    """p-values of all pairs of arms, seeds Gaussian of standard deviation 1 in every arm: → p_SI."""
    values_SNA = rng.normal(effects_A, 1, (simulations, n, len(effects_A)))
    first, second = np.array(pairs).T
    return ttest_1samp(values_SNA[..., first] - values_SNA[..., second], 0, axis=1).pvalue
