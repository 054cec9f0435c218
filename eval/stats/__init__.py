"""Arrays in, estimates with intervals out. Knows nothing of rows, arms or files.

The unit of replication is the seed: arrays that end in N hold one number a seed, those that end in P one a prompt.
"""

from eval.stats.differences import (
    Difference,
    effect_size,
    holm,
    paired_difference,
    probability_of_improvement,
)
from eval.stats.intervals import (
    MIN_SEEDS_INTERQUARTILE,
    Estimate,
    combined,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
)
from eval.stats.outliers import outlying, unseen_share
from eval.stats.resampling import bootstrap_interval, bootstrap_levels, bootstrap_means
from eval.stats.seeds import power, seeds_needed

__all__ = [
    "MIN_SEEDS_INTERQUARTILE",
    "Difference",
    "Estimate",
    "bootstrap_interval",
    "bootstrap_levels",
    "bootstrap_means",
    "combined",
    "effect_size",
    "holm",
    "interquartile_interval",
    "interquartile_mean",
    "mean_interval",
    "outlying",
    "paired_difference",
    "power",
    "probability_of_improvement",
    "seeds_needed",
    "unseen_share",
]
