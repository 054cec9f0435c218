"""Where intervals miss because seeds collapse: how often a warning stands beside them."""

from __future__ import annotations

import numpy as np
from scipy.stats import median_abs_deviation

from benchmarks.coverage.populations import collapsed
from benchmarks.page import markdown, percent, rate
from eval.report.caveats.seeds import FEW_SEEDS
from eval.stats import unseen_share
from eval.stats.intervals import t_half_widths
from eval.stats.outliers import outlying_mask

SIMULATIONS = 40_000
SEED_COUNTS = (3, 4, 5, 8, 10, 20)
COLLAPSES = {
    "none": (0.0, 0.0),
    "a quarter by 10 sd": (0.25, 10.0),
    "a tenth by 10 sd": (0.1, 10.0),
    "a quarter by 50 sd": (0.25, 50.0),
    "a tenth by 50 sd": (0.1, 50.0),
}


def verdicts(rng: np.random.Generator) -> str:
    """Paired differences of an arm whose seeds collapse and one whose seeds do not."""
    head = [
        "collapse",
        "seeds",
        "interval misses",
        "a warning fires",
        "misses, no warning",
        "of it, no seed collapsed",
    ]
    rows = []
    for name, (share, depth) in COLLAPSES.items():
        for n in SEED_COUNTS:
            fell_SN = collapsed(rng, (SIMULATIONS, n), share)
            a_SN, b_SN = rng.normal(size=(2, SIMULATIONS, n)) - np.stack(
                [depth * fell_SN, np.zeros_like(fell_SN)]
            )
            difference_SN = a_SN - b_SN
            misses_S = np.abs(difference_SN.mean(-1) + share * depth) > t_half_widths(difference_SN, 0.95)
            outlying_S = (outlying_mask(a_SN) | outlying_mask(b_SN)).any(-1)
            warned_S = outlying_S | (n < FEW_SEEDS)
            unwarned_S = misses_S & ~warned_S
            unseen = rate(unwarned_S & ~fell_SN.any(-1)) if share else "–"
            rows.append([name, str(n), rate(misses_S), rate(warned_S), rate(unwarned_S), unseen])
    return markdown(head, rows)


def outliers(rng: np.random.Generator) -> str:
    """How often seeds of one arm are called outlying: clean ones, and ones of which some collapsed."""
    counts = (3, 4, 5, 6, 8, 10, 20, 50)
    clean = {n: rng.normal(size=(SIMULATIONS, n)) for n in counts}
    rows = [
        ["Gaussian", *(rate(outlying_mask(values_SN).any(-1)) for values_SN in clean.values())],
        [
            "Gaussian, by 3.5 median deviations",
            *(rate(_by_median(values_SN)) for values_SN in clean.values()),
        ],
    ]
    for depth in (5, 10, 20):
        found = []
        for n in counts:
            fell_SN = collapsed(rng, (SIMULATIONS, n), 0.1)
            fell_SN = fell_SN[fell_SN.any(-1) & (fell_SN.mean(-1) < 0.5)]
            values_SN = rng.normal(size=fell_SN.shape) - depth * fell_SN
            found.append(rate((outlying_mask(values_SN) & fell_SN).any(-1)))
        rows.append([f"some fell by {depth} sd", *found])
    return markdown(["seeds", *(f"n = {n}" for n in counts)], rows)


def unseen(_: np.random.Generator) -> str:
    """What n seeds that all went well leave open. Computed, not simulated."""
    counts = (1, 3, 5, 7, 10, 20, 29)
    rows = [
        [
            "n seeds without a failure rule out, at 95%, only shares above",
            *(percent(unseen_share(n)) for n in counts),
        ]
    ]
    for name, share in (("a quarter", 0.25), ("a tenth", 0.1)):
        rows.append(
            [
                f"chance that none of n collapses, where {name} does",
                *(percent((1 - share) ** n) for n in counts),
            ]
        )
    return markdown(["", *(f"n = {n}" for n in counts)], rows)


def _by_median(values_SN: np.ndarray) -> np.ndarray:
    """The common rule: any value more than 3.5 median absolute deviations, in units of sd, from the median."""
    distance_SN = np.abs(values_SN - np.median(values_SN, axis=-1, keepdims=True))
    return (distance_SN > 3.5 * median_abs_deviation(values_SN, axis=-1, scale="normal")[:, None]).any(-1)
