"""The runs that the verdict is tried on: from a comparison, to and from a small table kept with the code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.report.inputs import BASE, JUDGE, KL, ReportInput
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import TOTAL_COST

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ["arm", "seed", "point"]
METRICS = [JUDGE, KL, TOTAL_COST]
DIGITS = {JUDGE: 6, KL: 6, TOTAL_COST: 0}


@dataclass(frozen=True)
class Stored:
    """Every run's evaluations: arm → paths_SKM, seeds × evaluations (the base first) × METRICS."""

    paths: dict[str, np.ndarray]

    @property
    def seeds(self) -> int:
        return min(len(paths_SKM) for paths_SKM in self.paths.values())

    def ends(self, arm: str) -> np.ndarray:
        """Judge reward at the end of every run: ends_S."""
        ends_S: np.ndarray = self.paths[arm][:, -1, METRICS.index(JUDGE)]
        return ends_S

    @property
    def base(self) -> float:
        """Judge reward of the untrained model."""
        return float(next(iter(self.paths.values()))[0, 0, METRICS.index(JUDGE)])


def collect(comparison: ReportInput) -> DataFrame:
    """A finished comparison → rows KEYS, METRICS; the base, where every run starts, once.

    Raises ValueError where a run has not reached its end (leaving it out would be a choice), and where arms start at
    different total costs.
    """
    import pandas as pd

    paths = evaluations(comparison).paths
    if not paths["finished"].all():
        raise ValueError(f"{comparison.path} holds runs that did not reach their end")
    rows = paths[[*KEYS, *METRICS]].round(DIGITS)
    start = rows[rows["point"] == 0].drop_duplicates(METRICS).assign(arm=BASE)
    if len(start) != 1:
        raise ValueError(
            f"{comparison} has runs that start at different costs: one base cannot stand for all"
        )
    return pd.concat([start, rows[rows["point"] > 0]]).sort_values(KEYS).astype({TOTAL_COST: int})


def read(file: Path) -> Stored:
    """The table that `collect` made."""
    import pandas as pd

    rows = pd.read_csv(file)
    start_M = rows.loc[rows["arm"] == BASE, METRICS].to_numpy(dtype=float)[0]
    paths = {}
    for arm, own in rows[rows["arm"] != BASE].groupby("arm", sort=False):
        trained_SKM = own[METRICS].to_numpy(dtype=float).reshape(own["seed"].nunique(), -1, len(METRICS))
        start_SKM = np.broadcast_to(start_M, (len(trained_SKM), 1, len(METRICS)))
        paths[str(arm)] = np.concatenate([start_SKM, trained_SKM], axis=1)
    return Stored(paths)
