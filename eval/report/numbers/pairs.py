"""Two arms beside each other on the seeds that both have. Numbers, no words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from eval import stats

ROUNDING = 1e-12  # values that differ by no more are equal
Values = Mapping[int, float]  # seed → judge reward


@dataclass(frozen=True)
class Pair:
    """Two arms on the seeds that both have; `first` has the higher mean over them.

    difference: first − second, paired by seed, nan where no seed has both. p_holm: adjusted over all pairs of the
    same comparison. kl: where both were read, in nats, in the comparison at matched KL only; trained: there, arm → share of
    its training after which it was read, mean over seeds. rough: those of the two whose reading is a guess with an error
    that no interval over seeds covers: between the base and the first evaluation, where training moves fastest, or at
    matched KL so far from an evaluation that it depends on how the path is taken to bend which arm is told apart.
    """

    first: str
    second: str
    of_first: Values
    of_second: Values
    difference: stats.Estimate
    p_holm: float
    kl: float = math.nan
    trained: Mapping[str, float] = field(default_factory=dict)
    rough: tuple[str, ...] = ()

    @property
    def told_apart(self) -> bool:
        return self.p_holm < 0.05 and not self.rough

    @property
    def ahead(self) -> str | None:
        """The arm of which it can be claimed."""
        return self.first if self.told_apart else None

    @property
    def rewards(self) -> list[float]:
        """What both arms came to, seed by seed."""
        return [*self.of_first.values(), *self.of_second.values()]

    @property
    def differences(self) -> list[float]:
        """first − second, one a seed."""
        return [self.of_first[seed] - self.of_second[seed] for seed in self.of_first]

    @property
    def against(self) -> int:
        """Seeds in which `second` is above `first`, whose mean is the higher."""
        return sum(d < -ROUNDING for d in self.differences)

    @property
    def contrary(self) -> bool:
        """Whether most seeds say the other way round than the mean, of a pair that is not told apart."""
        return not self.told_apart and 2 * self.against > len(self.differences)

    @property
    def improvement(self) -> float:
        """Probability that a run of `first` beats a run of `second`, of any two seeds."""
        return stats.probability_of_improvement(list(self.of_first.values()), list(self.of_second.values()))

    @property
    def effect(self) -> float:
        """The difference in standard deviations of itself over seeds (Hedges' g)."""
        return stats.effect_size(self.differences)

    def rival(self, arm: str) -> str:
        return self.second if arm == self.first else self.first
