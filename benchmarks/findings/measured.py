"""Reads finished comparisons: one row a run or an evaluation point, and estimates of them as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.frontier.overoptimization import Fit, Form, fit
from eval.stats import Difference, Estimate, holm, mean_interval, paired_difference
from eval.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame, Series

JUDGE, PROXY, KL = "reward/judge", "reward/proxy", "kl/sequence"
COUNTS = ["updates", "completions", "flops"]


def folder(reports: Path, comparison: str) -> Path:
    return reports / f"finding-{comparison}"


def paths(reports: Path, comparisons: Sequence[str]) -> DataFrame:
    """Every evaluation of every finished run: arm, seed, point, β, counts, and a column a metric.

    Raises UserError where a comparison has not been run.
    """
    import pandas as pd

    return pd.concat([_paths(folder(reports, name)) for name in comparisons], ignore_index=True)


def _paths(path: Path) -> DataFrame:
    import pandas as pd

    store = Store.open(path)
    rows = pd.read_parquet(path / "results.parquet")
    rows = rows[(rows["arm"] != "base") & rows["metric"].isin([JUDGE, PROXY, KL])]
    keys = ["arm", "algorithm", "seed", "point", *COUNTS]
    wide = rows.pivot_table(index=keys, columns="metric", values="value").reset_index()
    done = store.runs.query("status == 'done'")[["arm", "seed"]]
    arms = store.experiment.arms
    wide["beta"] = [arms[arm].beta for arm in wide["arm"]]
    # What REINFORCE and PPO maximise: proxy − β·KL.
    wide["objective"] = wide[PROXY] - wide["beta"] * wide[KL]
    return wide.merge(done, on=["arm", "seed"])


def ends(rows: DataFrame) -> DataFrame:
    """The last evaluation of every run."""
    return rows.loc[rows.groupby(["arm", "seed"])["point"].idxmax()].reset_index(drop=True)


def base(reports: Path, comparison: str) -> dict[str, float]:
    """The untrained model's metrics in a comparison."""
    return Store.open(folder(reports, comparison)).base_metrics


def fitted(run: DataFrame, start: Mapping[str, float], metric: str, form: Form = "rl") -> Fit:
    """Gao's curve through a run's gains in a metric over the base (`start`)."""
    found = fit(run[KL], run[metric] - start[metric], form)
    assert found is not None  # of fewer than three evaluations; these comparisons have more
    return found


def by_seed(rows: DataFrame, arm: str, metric: str = JUDGE) -> Series:
    """One arm's values of a metric, indexed and ordered by seed."""
    return rows[rows["arm"] == arm].set_index("seed")[metric].sort_index()


def difference(rows: DataFrame, a: str, b: str, metric: str = JUDGE) -> Difference:
    """a − b over the seeds that both finished."""
    both = by_seed(rows, a, metric).to_frame("a").join(by_seed(rows, b, metric).rename("b"), how="inner")
    return paired_difference(both["a"], both["b"])


def differences(rows: DataFrame, pairs: Sequence[tuple[str, str]], metrics: dict[str, str]) -> str:
    """A table of a − b for every pair and metric (key → heading), with Holm's p over the pairs of a metric."""
    found = {metric: [difference(rows, a, b, metric) for a, b in pairs] for metric in metrics}
    adjusted = {metric: holm([one.p_value for one in column]) for metric, column in found.items()}
    lines = [
        [f"{a} − {b}", *(f"{signed(found[m][i].estimate)} ({_p(adjusted[m][i])})" for m in metrics)]
        for i, (a, b) in enumerate(pairs)
    ]
    return table(["difference", *metrics.values()], lines)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def text(estimate: Estimate, digits: int = 3) -> str:
    """`0.769 ± 0.010`: the mean and half of its 95% t interval."""
    half = f" ± {estimate.half_width:.{digits}f}" if math.isfinite(estimate.half_width) else ""
    return f"{estimate.mean:.{digits}f}{half}".replace("-", "−")


def signed(estimate: Estimate, digits: int = 3) -> str:
    """`+0.012 [−0.003, +0.027]`."""
    bounds = f" [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]" if estimate.has_interval else ""
    return f"{estimate.mean:+.{digits}f}{bounds}".replace("-", "−")


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *map(list, lines)])


def summary(rows: DataFrame, arms: Sequence[str], columns: dict[str, str]) -> str:
    """A table of means with intervals over seeds: one line an arm, one column a metric (key → heading)."""
    return table(
        ["arm", "seeds", *columns.values()],
        [
            [arm, str(len(by_seed(rows, arm))), *(_cell(by_seed(rows, arm, key), key) for key in columns)]
            for arm in arms
        ],
    )


def _cell(values: Series, key: str) -> str:
    if key in COUNTS:
        return f"{values.mean():,.0f}"
    return text(mean_interval(values), 2 if key == KL else 3)


def leave_one_out_gap(curves_SK: DataFrame) -> Estimate:
    """How much higher the judge is at its peak than at the end, without choosing the peak on the same seed.

    curves_SK: seeds × points. For every seed the peak is where the mean of the *other* seeds is highest; the
    maximum of a noisy curve itself would always lie above its end.
    """
    gaps = [
        curves_SK.loc[seed, curves_SK.drop(index=seed).mean().idxmax()] - curves_SK.loc[seed].iloc[-1]
        for seed in curves_SK.index
    ]
    return mean_interval(gaps)
