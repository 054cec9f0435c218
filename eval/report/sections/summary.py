"""The tables of a comparison's ends: what every arm reached, what it cost, and every seed's own number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval import format as fmt
from eval import stats
from eval.report.caveats import conditions
from eval.report.document import Block, Cell, Column, Row, Section, Table, Text, table
from eval.report.figures import axes
from eval.report.inputs import BASE, JUDGE, KL, ReportInput
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations

if TYPE_CHECKING:
    from pandas import DataFrame

ALIKE = 1.05  # times the least cost, or the greatest: arms of such costs are named together
RunColumn = tuple[Column, "Callable[[DataFrame], Cell]"]  # a head, and what it says of an arm's runs
_HOW = "Mean over finished seeds at the end of training, ± half the width of the 95% Student t interval over seeds."


def at_a_glance(view: Evaluations) -> list[Table]:
    """The verdict in numbers: what every arm reached at its end, how far from the base and for how much, the best first."""
    metrics = [m for m in (JUDGE, KL, "cost/total_flops") if m in view.metrics]
    ranked = tables.ranking(view)
    return [_metric_table(view, metrics, _HOW, "", arms=[*ranked, BASE])] if ranked else []


def _how(view: Evaluations) -> str:
    """What a table further down has: said once, under the verdict's table where there is one."""
    return "Means and ± are as in the verdict's table." if tables.ranking(view) else _HOW


def cost(comparison: ReportInput, view: Evaluations) -> Section:
    """What every arm spent, on training alone and in all; and what the comparison itself had scored."""
    caption = (
        "Training cost counts the run alone; total cost adds what the arm needs before it. Evaluation is not counted. "
        + _how(view)
        + _reference_pass(comparison, view)
    )
    first = [(Column("runs", "finished"), _finished), (Column("budget", "used"), _budget_used)]
    metrics = [m for m in tables.COSTS if m in view.metrics]
    return Section(
        "cost", "Cost", (*_filled(_metric_table(view, metrics, caption, "", first)), _scored(comparison))
    )


def cost_sentences(view: Evaluations, ranked: Sequence[str]) -> list[str]:
    """What the verdict says of total cost: which arms are the cheapest and which the most expensive."""
    costs = {arm: tables.at_end(view, arm, "cost/total_flops").mean for arm in ranked}
    known = {arm: cost for arm, cost in costs.items() if math.isfinite(cost) and cost > 0}
    if len(known) < 2:
        return []
    least, most = min(known.values()), max(known.values())
    if most / least < 1.2:
        told = _span([least, most])
        told = told if " to " in told else f"about {told}"
        return [f"In total cost (preparation and training) the arms are alike, {told} FLOPs."]
    cheapest = [arm for arm in known if known[arm] <= least * ALIKE]
    priciest = [arm for arm in known if known[arm] >= most / ALIKE]
    return [
        f"In total cost (preparation and training) {fmt.listing(cheapest)} {'is' if len(cheapest) == 1 else 'are'} the cheapest "
        f"with {_span([known[arm] for arm in cheapest])} FLOPs, {fmt.listing(priciest)} the most expensive with "
        f"{fmt.number(most / least, 1)} times as much."
    ]


def _span(costs: Sequence[float]) -> str:
    return fmt.span([fmt.compact(cost) for cost in sorted(costs)])


def _reference_pass(comparison: ReportInput, view: Evaluations) -> str:
    """What a caption adds where arms learn from recorded pairs, of which only the first run has the whole time; where each
    seed has pairs of its own, the first of each."""
    told: Mapping[str, Any] = comparison.facts.get("arms") or {}
    arms = [arm for arm in view.arms if told.get(arm, {}).get("source") == "pairs"]
    if not arms:
        return ""
    anew = comparison.settings.get("replicate_data") and "pairs" in (comparison.facts.get("varies") or [])
    return (
        f" The first run of {fmt.listing(arms, link='or')}{' with each seed' if anew else ''} also spends time on the "
        "reference model's pass over its pairs; later runs read it from a cache."
    )


def _scored(comparison: ReportInput) -> Text:
    """How many responses were scored beside training's: of the base and of every run at every point, and the frontier's."""
    samples, rows, pool = comparison.samples, comparison.results, comparison.pool
    each = int((samples["arm"] == BASE).sum()) if len(samples) else 0
    points = rows[(rows["arm"] != BASE) & (rows["point"] > 0)][["arm", "seed", "point"]].drop_duplicates()
    drawn = 0 if pool is None else sum(pool.counts) * pool.logps_KPM.shape[1]
    frontier = f", the frontier {drawn:,} more" if drawn else ""
    return Text(
        f"Evaluation scored {each * (1 + len(points)):,} responses{frontier}; none of them is in the costs above."
    )


def ends(comparison: ReportInput, view: Evaluations) -> Section:
    """What every arm reached: outcomes, further metrics, and the judge's number for every seed."""
    outcomes = [m for m in tables.OUTCOMES if m in view.metrics]
    further = [m for m in view.metrics if m not in tables.OUTCOMES and m not in tables.COSTS]
    blocks = _filled(
        _metric_table(view, outcomes, _how(view), "Outcomes"),
        _metric_table(view, further, "", "Further metrics"),
        _judge_by_seed(comparison, view),
    )
    return Section("summary", "What every arm reached", blocks)


def _filled(*found: Table) -> tuple[Block, ...]:
    return tuple(each for each in found if each.rows and len(each.columns) > 1)


def _metric_table(
    view: Evaluations,
    metrics: list[str],
    caption: str,
    heading: str,
    first: Sequence[RunColumn] = (),
    arms: Sequence[str] = (),
) -> Table:
    """`arms` (all, the base first) down, `first` columns and metrics across; an arm without any of the metrics is left
    out."""
    arms = [arm for arm in arms or (BASE, *view.arms) if any(tables.at_end(view, arm, m).n for m in metrics)]
    columns = [fmt.column([tables.at_end(view, arm, m) for arm in arms], fmt.unit(m)) for m in metrics]
    rows: list[Row] = []
    for index, arm in enumerate(arms):
        own = view.runs[view.runs["arm"] == arm]
        shown = [*(say(own) for _, say in first), *(Cell(*column[index]) for column in columns)]
        rows.append([Cell(arm, arm=arm), *shown])
    heads = [*(column for column, _ in first), *(Column(fmt.label(m), fmt.shown_unit(m)) for m in metrics)]
    caption = " ".join(filter(None, [caption, _beyond(view, arms, metrics)]))
    return table(["arm", *heads], rows, caption, heading)


def _beyond(view: Evaluations, arms: Sequence[str], metrics: Sequence[str]) -> str:
    """Which intervals reach, by more than a hundredth of their mean, where the metric cannot be: Student's t knows no bounds."""

    def leaves(arm: str, metric: str) -> bool:
        found, (least, most) = tables.at_end(view, arm, metric), fmt.bounds(metric)
        excess = max(least - found.low, found.high - most) if found.has_interval else 0.0
        return excess > 0.01 * abs(found.mean)

    known = [arm for arm in arms if any(leaves(arm, metric) for metric in metrics)]
    if not known:
        return ""
    many = len(known) > 1
    return (
        f"± of {fmt.listing(known)} reaches beyond what the metric can be: Student's t knows no bounds, and "
        f"{'their' if many else 'its'} seeds are few or lie far apart; see every seed."
    )


def _finished(runs: DataFrame) -> Cell:
    done = int((runs["status"] == "done").sum())
    return Cell(f"{done}" if done == len(runs) else f"{done} of {len(runs)}")


def _budget_used(runs: DataFrame) -> Cell:
    """An arm may have no use for the rest of its budget: then this is less than 100%."""
    share = runs.loc[runs["status"] == "done", "fraction"].astype(float).mean()
    return Cell(fmt.MISSING if math.isnan(share) else f"{100 * share:.0f}%")


def _judge_by_seed(comparison: ReportInput, view: Evaluations) -> Table:
    """Judge reward of every run, with mean, the verdict's gain over the base and, from 8 seeds, the middle half."""
    seeds = sorted({int(seed) for seed in view.runs["seed"]})
    gains = {arm: conditions.gain(comparison, view, arm) for arm in view.arms}
    decimals = view.judge_decimals
    robust = any(len(view.at_end(arm, JUDGE)) >= stats.MIN_SEEDS_INTERQUARTILE for arm in view.arms)
    heads = [Column(f"seed {seed}") for seed in seeds]
    tail = [
        Column("mean"),
        *([Column("middle half", "mean, 95% interval")] if robust else []),
        Column("gain over base", "95% interval"),
    ]
    rows: list[Row] = []
    for arm in view.arms:
        rows.append([
            Cell(arm, arm=arm), *(_seed_cell(view, arm, seed, decimals) for seed in seeds),
            fmt.number(tables.at_end(view, arm, JUDGE).mean, decimals),
            *([_middle_half(view, arm, decimals)] if robust else []),
            Cell(*fmt.with_interval(gains[arm].estimate, decimals, signed=True)),
        ])  # fmt: skip
    prompts = " and test prompts together" if any(g.prompts.has_interval for g in gains.values()) else ""
    caption = (
        f"One number a run. The gain's interval is the verdict's: over seeds{prompts}, one arm at a time (not corrected for "
        "the number of arms)."
    )
    if axes.any_failed(view.paths):
        caption += " † a run that did not finish: its last evaluation, not in the mean."
    return table(["arm", *heads, *tail], rows, caption, f"{fmt.label(JUDGE).capitalize()}, every seed")


def _middle_half(view: Evaluations, arm: str, decimals: int) -> Cell:
    """The interquartile mean with its interval, from eight seeds on."""
    values = list(view.at_end(arm, JUDGE).values())
    if len(values) < stats.MIN_SEEDS_INTERQUARTILE:
        return Cell(fmt.MISSING)
    return Cell(*fmt.with_interval(stats.interquartile_interval(values), decimals))


def _seed_cell(view: Evaluations, arm: str, seed: int, decimals: int) -> Cell:
    run = view.ends[(view.ends["arm"] == arm) & (view.ends["seed"] == seed)]
    if not len(run):
        return Cell(fmt.MISSING)
    value, finished = float(run[JUDGE].iloc[0]) if JUDGE in run else math.nan, bool(run["finished"].iloc[0])
    return Cell(fmt.number(value, decimals) + ("" if finished else " †"))
