"""The numbers of the report, per arm. Rendered elsewhere (page, command line); arms against each other: standings.py."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from eval import format as fmt
from eval import stats
from eval.glossary import METRICS
from eval.report.inputs import BASE, JUDGE, KL, PROXY, WIN_PREFIX, ReportInput
from eval.report.numbers.frames import Evaluations, evaluations

if TYPE_CHECKING:
    from pandas import DataFrame

OUTCOMES = (
    JUDGE, PROXY, KL, "win_rate", "length", "eos_rate", "distinct_2", "perplexity/reference", "perplexity/heldout",
)  # fmt: skip
COSTS = tuple(name for name in METRICS if name.startswith("cost/"))


def summary_text(comparison: ReportInput, metrics: tuple[str, ...]) -> DataFrame:
    """The summary as strings ("0.787 ± 0.012"), arms down, titled metrics across: for the terminal's last table.

    Bounds are of the 95% Student t interval over finished seeds. Units: `eval.glossary.METRICS`.
    """
    import pandas

    view = evaluations(comparison)
    arms = [BASE, *view.arms]
    columns = {}
    for metric in (m for m in metrics if m in view.metrics):
        cells = fmt.column([at_end(view, arm, metric) for arm in arms], fmt.unit(metric))
        columns[fmt.titled(metric)] = [" ".join(cell).strip() for cell in cells]
    return pandas.DataFrame(columns, index=pandas.Index(arms, name="arm"))


def at_end(view: Evaluations, arm: str, metric: str) -> stats.Estimate:
    """Mean over the arm's finished seeds at their end; the base has one value and no interval."""
    if arm == BASE:
        return stats.mean_interval([view.base[metric]] if metric in view.base else [])
    return stats.mean_interval(list(view.at_end(arm, metric).values()))


def gain(view: Evaluations, arm: str) -> stats.Estimate:
    """Judge reward of the arm minus that of the base, one fixed number here: the interval is over the arm's seeds only."""
    if JUDGE not in view.base:
        return stats.mean_interval([])
    return stats.mean_interval([value - view.base[JUDGE] for value in view.at_end(arm, JUDGE).values()])


def ranking(view: Evaluations) -> list[str]:
    """Arms with at least one finished run, highest mean judge reward first."""
    means = {arm: at_end(view, arm, JUDGE).mean for arm in view.arms}
    return sorted((arm for arm in means if not math.isnan(means[arm])), key=lambda arm: -means[arm])


def win_rates(view: Evaluations) -> dict[tuple[str, str], stats.Estimate]:
    """(row, column) → share of row's responses that the judge prefers to column's to the same prompts, mean over seeds.

    A direction that was not measured is 1 minus the other: ties count half on both sides.
    """
    found: dict[tuple[str, str], stats.Estimate] = {}
    for row, column in itertools.permutations([BASE, *view.arms], 2):
        direct = _win_values(view, row, column)
        values = direct or [1 - value for value in _win_values(view, column, row)]
        if values:
            found[row, column] = stats.mean_interval(values)
    return found


def _win_values(view: Evaluations, row: str, column: str) -> list[float]:
    metric = "win_rate" if column == BASE else f"{WIN_PREFIX}{column}"
    return [] if row == BASE else list(view.at_end(row, metric).values())
