"""The comparison's rows brought into the shapes that tables and figures need. No statistics here but
a mean that tells how many decimals to show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from eval import format as fmt
from eval.report.inputs import BASE, JUDGE, PROXY, WIN_PREFIX, ReportInput

if TYPE_CHECKING:
    from pandas import DataFrame

RUN = ["arm", "seed"]
AXES = ["updates", "completions", "tokens", "flops", "seconds"]


@dataclass(frozen=True)
class Evaluations:
    """All evaluations of a comparison, one row each, and where every run ended.

    paths: one row an evaluation (arm, algorithm, seed, point, AXES, finished, one column a metric), base left out.
    ends: the last row of every run; `base`: the untouched model's metrics by name, its proxy reward a mean over the seeds
    where each has a reward model of its own.
    `arms` maps every arm to its algorithm, in the order in which the user named them. axis: that of AXES which the budget
    counts, or the nearest to it.
    """

    arms: dict[str, str]
    paths: DataFrame
    ends: DataFrame
    base: dict[str, float]
    runs: DataFrame
    axis: str = "flops"

    @property
    def done(self) -> DataFrame:
        """Ends of the runs that reached their end: what means and intervals describe."""
        return self.ends[self.ends["finished"]]

    @property
    def metrics(self) -> list[str]:
        """Metrics with at least one number, win rates against single arms left out."""
        fixed = {*RUN, *AXES, "algorithm", "point", "finished"}
        columns = [c for c in self.paths.columns if c not in fixed and not c.startswith(WIN_PREFIX)]
        return [c for c in columns if self.paths[c].notna().any()]

    def at_end(self, arm: str, metric: str) -> dict[int, float]:
        """Seed → value at the end of this arm's finished runs; missing values left out."""
        if metric not in self.ends.columns:
            return {}
        rows = self.done[self.done["arm"] == arm]
        pairs = zip(rows["seed"], rows[metric], strict=True)
        return {int(seed): float(value) for seed, value in pairs if not math.isnan(value)}

    @cached_property
    def judge_decimals(self) -> int:
        """Decimals of the judge's rewards and their differences, by the size of what base and arms came to."""
        ends = [list(self.at_end(arm, JUDGE).values()) for arm in self.arms]
        return fmt.reward_decimals([self.base.get(JUDGE, math.nan), *(fmean(each) for each in ends if each)])


def evaluations(comparison: ReportInput) -> Evaluations:
    """Read a comparison's rows once, for everything that follows."""
    import pandas

    runs = comparison.runs
    arms = _arms(comparison, runs)
    wide = _wide(comparison.results)
    trained = wide[wide["arm"] != BASE]
    states = {(arm, seed): status for arm, seed, status in runs[[*RUN, "status"]].itertuples(index=False)}
    finished = [states.get((arm, seed)) == "done" for arm, seed in trained[RUN].itertuples(index=False)]
    paths = trained.reset_index(drop=True).assign(finished=pandas.Series(finished, dtype=bool))
    ends = paths.sort_values([*RUN, "point"], kind="stable").groupby(RUN, sort=False).tail(1)
    base = _base(wide) | (_mean_proxy(trained) if comparison.settings.get("replicate_data") else {})
    return Evaluations(arms, paths, ends.reset_index(drop=True), base, runs, _axis(comparison))


def _axis(comparison: ReportInput) -> str:
    """Of "5e11 FLOPs" and "1 update" flops and updates; of iterations, which have no axis, updates."""
    unit = str(comparison.facts.get("budget") or "").lower().rpartition(" ")[2].removesuffix("s")
    return {"update": "updates", "iteration": "updates", "completion": "completions", "token": "tokens",
            "second": "seconds"}.get(unit, "flops")  # fmt: skip


def _wide(results: DataFrame) -> DataFrame:
    """Tidy rows → one row an evaluation. Not `pivot_table`: it drops rows whose axes are missing."""
    keys = [*RUN, "point"]
    meta = results.drop_duplicates(keys)[[*keys, "algorithm", *AXES]]
    values = results.drop_duplicates([*keys, "metric"], keep="last").pivot(
        index=keys, columns="metric", values="value"
    )
    return meta.merge(values.reset_index(), on=keys, how="left", sort=False)


def _base(wide: DataFrame) -> dict[str, float]:
    """The untouched model's metrics; where it has no row of its own, the runs' first evaluation (before training)."""
    own = wide[wide["arm"] == BASE]
    rows = own if len(own) else wide[wide["point"] == 0]
    fixed = {*RUN, *AXES, "algorithm", "point"}
    metrics = [c for c in wide.columns if c not in fixed and not c.startswith("cost/")]  # costs are the runs'
    means = rows[metrics].astype(float).mean()
    return {str(name): float(value) for name, value in means.items() if not math.isnan(value)}


def _mean_proxy(trained: DataFrame) -> dict[str, float]:
    """The base's proxy reward as a mean over the seeds, where each has a reward model of its own, as an arm's is: every run
    begins as the base, and its own row was scored by the first seed's model alone."""
    if PROXY not in trained.columns:
        return {}
    starts = trained[trained["point"] == 0].dropna(subset=[PROXY]).drop_duplicates("seed")[PROXY]
    return {PROXY: float(starts.astype(float).mean())} if starts.nunique() > 1 else {}


def _arms(comparison: ReportInput, runs: DataFrame) -> dict[str, str]:
    """Arm → algorithm: in the order of the configuration, then of the runs."""
    declared: dict[str, Any] = comparison.facts.get("arms") or {}
    arms = {arm: str(about.get("algorithm", arm)) for arm, about in declared.items()}
    for arm, algorithm in runs[["arm", "algorithm"]].drop_duplicates("arm").itertuples(index=False):
        arms.setdefault(arm, algorithm)
    return arms
