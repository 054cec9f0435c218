"""Seeds that ended apart from the others of their arm, and whether so far that they came to another outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from eval import stats
from eval.report.inputs import JUDGE
from eval.report.numbers.frames import Evaluations


@dataclass(frozen=True)
class Apart:
    """Seeds of one arm that lie apart from its others, on one side of them."""

    arm: str
    ends: Mapping[int, float]  # seed → judge reward
    others: Mapping[int, float]

    @property
    def gaps(self) -> dict[int, float]:
        """Seed → how far it ended from the nearest of the others."""
        low, high = min(self.others.values()), max(self.others.values())
        return {seed: max(low - end, end - high) for seed, end in self.ends.items()}

    @property
    def below(self) -> bool:
        return min(self.ends.values()) < min(self.others.values())

    def far(self, base: float) -> list[int]:
        """Those that came to another outcome, not to a worse or better draw of the same: farther from the others than
        half of what training moved these from the base. How far the others lie from each other would be no measure: of
        two it is often next to nothing by chance, and of twenty it grows with their number."""
        moved = abs(fmean(self.others.values()) - base)
        return [seed for seed, gap in self.gaps.items() if gap > moved / 2]


def apart(view: Evaluations, arm: str) -> list[Apart]:
    """Those that `stats.outlying` finds by the judge reward at their end: below the others, above them, or both."""
    values = view.at_end(arm, JUDGE)
    seeds = list(values)
    away = {seeds[index] for index in stats.outlying(list(values.values()))}
    others = {seed: end for seed, end in values.items() if seed not in away and math.isfinite(end)}
    if not away:
        return []
    low = {seed: values[seed] for seed in sorted(away) if values[seed] < min(others.values())}
    high = {seed: values[seed] for seed in sorted(away) if values[seed] > max(others.values())}
    return [Apart(arm, ends, others) for ends in (low, high) if ends]
