"""Sections about what came of it: summary, arms against each other, KL, learning, over-optimization, seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from eval import stats
from eval.report import figures, glance, tables, theme, versus
from eval.report import format as fmt
from eval.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Picture,
    Row,
    Section,
    Table,
    Text,
    table,
)
from eval.report.frames import Evaluations
from eval.report.inputs import BASE, JUDGE, KL, PROXY, ReportInput
from eval.report.theme import Style

if TYPE_CHECKING:
    from pandas import DataFrame

Look = dict[str, Style]
RunColumn = tuple[Column, "Callable[[DataFrame], Cell]"]  # a head, and what it says of an arm's runs
SEED_LINES = (
    "Thin lines are single seeds, bold lines the mean of an arm's finished seeds at each evaluation point."
)


def sections(comparison: ReportInput, view: Evaluations, look: Look) -> list[Section]:
    """Everything the evaluations say, in the order in which a reader asks."""
    drawable = len(view.paths) > 0 and JUDGE in view.metrics
    found = [_at_a_glance(comparison, view), Section("summary", "Summary", tuple(_summary(comparison, view)))]
    if not drawable:
        nothing = Text("No run has been evaluated with the judge yet, so there is nothing to draw.")
        return [*found, Section("reward-kl", "Reward against KL", (nothing,))]
    return [
        *found,
        versus.section(view),
        Section("reward-kl", "Reward against KL", tuple(_reward_kl(view, look))),
        Section("learning", "Learning curves", tuple(_learning(view, look))),
        Section("over-optimization", "Proxy against judge", tuple(_proxy(view, look))),
        Section("seeds", "Every seed", tuple(_seeds(view, look))),
    ]


def _at_a_glance(comparison: ReportInput, view: Evaluations) -> Section:
    blocks: list[Block] = [Bullets(glance.sentences(comparison, view))]
    blocks += [Text(note, label="Note") for note in glance.caveats(comparison, view)]
    return Section("glance", "At a glance", tuple(blocks))


def _summary(comparison: ReportInput, view: Evaluations) -> list[Block]:
    further = [m for m in view.metrics if m not in tables.OUTCOMES and m not in tables.COSTS]
    how = "Mean over finished seeds at the end of training, ± half the width of the 95% Student t interval over seeds"
    blocks: list[Block] = [
        _metric_table(view, [m for m in tables.OUTCOMES if m in view.metrics], f"{how}.", "Outcomes"),
        _metric_table(
            view, [m for m in tables.COSTS if m in view.metrics],
            "Training cost counts the run alone; total cost adds what the arm needs before it. Evaluation is not counted. "
            f"{how}.", "Cost", [(Column("runs", "finished"), _finished), (Column("budget", "used"), _budget_used)],
        ),
        _metric_table(view, further, f"{how}.", "Further metrics"),
        _judge_by_seed(view),
    ]  # fmt: skip
    return [block for block in blocks if isinstance(block, Table) and block.rows and len(block.columns) > 1]


def _metric_table(
    view: Evaluations, metrics: list[str], caption: str, heading: str, first: Sequence[RunColumn] = ()
) -> Table:
    """Arms down, `first` columns and metrics across; an arm without any of the metrics is left out."""
    arms = [arm for arm in (BASE, *view.arms) if any(tables.at_end(view, arm, m).n for m in metrics)]
    columns = [fmt.column([tables.at_end(view, arm, m) for arm in arms], fmt.unit(m)) for m in metrics]
    rows: list[Row] = []
    for index, arm in enumerate(arms):
        own = view.runs[view.runs["arm"] == arm]
        shown = [*(say(own) for _, say in first), *(Cell(*column[index]) for column in columns)]
        rows.append([Cell(arm, arm=arm), *shown])
    heads = [*(column for column, _ in first), *(Column(fmt.label(m), fmt.shown_unit(m)) for m in metrics)]
    return table(["arm", *heads], rows, caption, heading)


def _finished(runs: DataFrame) -> Cell:
    done = int((runs["status"] == "done").sum())
    return Cell(f"{done}" if done == len(runs) else f"{done} of {len(runs)}")


def _budget_used(runs: DataFrame) -> Cell:
    """An arm may have no use for the rest of its budget: then this is less than 100%."""
    share = runs.loc[runs["status"] == "done", "fraction"].astype(float).mean()
    return Cell(fmt.MISSING if math.isnan(share) else f"{100 * share:.0f}%")


def _judge_by_seed(view: Evaluations) -> Table:
    """Judge reward of every run, with mean, interval of the gain over the base and, from 8 seeds, the middle half."""
    seeds = sorted({int(seed) for seed in view.runs["seed"]})
    robust = any(len(view.at_end(arm, JUDGE)) >= stats.MIN_SEEDS_INTERQUARTILE for arm in view.arms)
    heads = [Column(f"seed {seed}") for seed in seeds]
    tail = [
        Column("mean"),
        *([Column("middle half", "mean")] if robust else []),
        Column("gain over base", "95% interval"),
    ]
    rows: list[Row] = []
    for arm in view.arms:
        gain = tables.gain(view, arm)
        values = list(view.at_end(arm, JUDGE).values())
        middle = (
            stats.interquartile_mean(values) if len(values) >= stats.MIN_SEEDS_INTERQUARTILE else math.nan
        )
        rows.append([
            Cell(arm, arm=arm), *(_seed_cell(view, arm, seed) for seed in seeds),
            fmt.number(tables.at_end(view, arm, JUDGE).mean, 3), *([fmt.number(middle, 3)] if robust else []),
            Cell(fmt.number(gain.mean, 3, signed=True), fmt.interval(gain, 3) if gain.has_interval else ""),
        ])  # fmt: skip
    caption = (
        "One number a run. The interval is Student's t over seeds, one arm at a time (not corrected for the number of arms); "
        "the base is one fixed number in it. † failed run, its last evaluation, not in the mean."
    )
    return table(["arm", *heads, *tail], rows, caption, f"{fmt.label(JUDGE).capitalize()}, every seed")


def _seed_cell(view: Evaluations, arm: str, seed: int) -> Cell:
    run = view.ends[(view.ends["arm"] == arm) & (view.ends["seed"] == seed)]
    if not len(run):
        return Cell(fmt.MISSING)
    value, finished = float(run[JUDGE].iloc[0]) if JUDGE in run else math.nan, bool(run["finished"].iloc[0])
    return Cell(fmt.number(value, 3) + ("" if finished else " †"))


def _reward_kl(view: Evaluations, look: Look) -> list[Block]:
    if KL not in view.metrics:
        return [Text("KL to the reference was not measured, so there is no such figure.")]
    caption = (
        "Up and to the left is better: more reward for less distance from the base (star). "
        f"{SEED_LINES} A large marker is the arm's end. Where proxy rises while judge falls, the proxy is being exploited."
    )
    figure = figures.reward_against_kl(view.paths, look, view.base)
    return [
        Picture(
            "reward-kl", figure, caption + _others(look), "Judge and proxy reward against KL along training"
        )
    ]


def _learning(view: Evaluations, look: Look) -> list[Block]:
    caption = (
        f"The same {fmt.label(JUDGE)} on held-out prompts, against each thing that training spends. {SEED_LINES} "
        "Bands, from five seeds on, are 95% Student t intervals at each point. Preparation and evaluation are not counted."
    )
    figure = figures.learning_curves(view.paths, look, view.base)
    alternative = "Judge reward against updates, completions, FLOPs and seconds"
    return [Picture("learning-curves", figure, caption + _others(look), alternative)]


def _proxy(view: Evaluations, look: Look) -> list[Block]:
    if PROXY not in view.metrics:
        return [Text("The training reward was not measured on held-out prompts, so there is no such figure.")]
    caption = (
        "Training moves to the right, since it is the proxy that is trained on. While the path climbs, the judge agrees; where it "
        f"bends down, the proxy is over-optimized. {SEED_LINES} The star is the base."
    )
    figure = figures.proxy_against_judge(view.paths, look, view.base)
    return [
        Picture(
            "proxy-judge", figure, caption + _others(look), "Judge reward against proxy reward along training"
        )
    ]


def _seeds(view: Evaluations, look: Look) -> list[Block]:
    if view.runs["seed"].nunique() < 2:
        return [
            Text("There is one seed; its numbers are in the summary. The spread between seeds is not known.")
        ]
    metrics = [m for m in (JUDGE, PROXY, KL) if m in view.metrics]
    caption = (
        "Each small marker is one run at its end, seeds from top to bottom; the upright bar is their mean, the level line its 95% "
        "Student t interval (cut off where it is far wider than the seeds). × is a failed run's last evaluation, not in the mean."
    )
    figure = figures.every_seed(view.ends, look, view.base, metrics)
    return [Picture("seeds", figure, caption, "Every run's end by arm")]


def _others(look: Look) -> str:
    if len(theme.panels(look)) == 1:
        return ""
    return " The arms are spread over several panels; the means of those in other panels are drawn in grey."
