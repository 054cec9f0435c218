"""The section that sets the arms against each other: win rates, and paired differences in judge reward."""

from __future__ import annotations

import math

from eval import stats
from eval.report import figures, tables
from eval.report import format as fmt
from eval.report.document import Block, Cell, Column, Heads, Picture, Row, Section, Table, Text, table
from eval.report.frames import Evaluations
from eval.report.inputs import BASE, JUDGE

MANY_ARMS = 6  # tables that grow with the square of the arms are folded beyond


def section(view: Evaluations) -> Section:
    """Heat map and table of win rates, then every pair of arms with its difference, interval and p-value."""
    rates = tables.win_rates(view)
    blocks: list[Block] = []
    if len(view.arms) > 1 and rates:
        caption = (
            "Share of held-out prompts on which the judge prefers the response of the row's arm to that of the column's, "
            "on the same prompts and seed, ties half; mean over seeds. Purple: preferred more often than not."
        )
        figure = figures.win_rates(figures.matrix(rates, list(view.arms)))
        blocks += [
            Picture("win-rates", figure, caption, "Heat map of win rates between arms"),
            _win_table(view, rates),
        ]
    elif not rates:
        blocks.append(Text("No win rates were measured."))
    alone = Text("There is one arm: no pair to compare.")
    blocks.append(_pair_table(view) if len(view.arms) > 1 else alone)
    return Section("arms", "The arms against each other", tuple(blocks))


def _win_table(view: Evaluations, rates: dict[tuple[str, str], stats.Estimate]) -> Table:
    names = [BASE, *view.arms]
    rows: list[Row] = []
    for row in names:
        cells = [rates.get((row, column)) for column in names]
        rows.append([Cell(row, arm=row), *(_rate(estimate) for estimate in cells)])
    heads = [Column(f"over {name}") for name in names]
    caption = "The same numbers, ± half the width of the 95% t interval over seeds."
    folded = "The same numbers with their intervals" if len(names) > MANY_ARMS else ""
    return table(["preferred", *heads], rows, caption, folded=folded)


def _rate(estimate: stats.Estimate | None) -> Cell:
    if estimate is None:
        return Cell("")
    return Cell(
        fmt.number(estimate.mean, 3),
        f"± {fmt.number(estimate.half_width, 3)}" if estimate.has_interval else "",
    )


def _pair_table(view: Evaluations) -> Table | Text:
    known = [pair for pair in tables.pairs(view) if pair.difference.n]
    if not known:
        return Text("No two arms finished the same seed, so no pair of arms can be compared.")
    known.sort(key=lambda pair: (math.isnan(pair.p_holm), pair.p_holm))
    rows: list[Row] = []
    for pair in known:
        says = "told apart" if pair.told_apart else "one seed" if pair.difference.n == 1 else "not told apart"
        difference = Cell(fmt.number(pair.difference.mean, 3, signed=True), fmt.interval(pair.difference, 3))
        rows.append([
            Cell(pair.first, arm=pair.first), Cell(pair.second, arm=pair.second), difference,
            fmt.p_value(pair.p_holm), str(pair.difference.n), says,
        ])  # fmt: skip
    heads: Heads = [
        "higher",
        "lower",
        Column("difference", "95% interval"),
        Column("p", "Holm"),
        Column("seeds"),
        "at 5%",
    ]
    caption = (
        "Paired by seed: the difference on the same seeds and prompts, with its t interval (for this pair alone) and the paired "
        "t-test's p-value, corrected for all pairs by Holm's method. “Not told apart” is not “equal”."
    )
    folded = f"All {len(rows)} pairs, the clearest first" if len(view.arms) > MANY_ARMS else ""
    return table(heads, rows, caption, f"Differences in {fmt.label(JUDGE)}", folded)
