"""The section that sets the arms against each other: win rates, and their differences in the three comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval import format as fmt
from eval import stats
from eval.report.document import Block, Cell, Column, Heads, Picture, Row, Section, Table, Text, table
from eval.report.figures import outcomes as figures
from eval.report.inputs import BASE, JUDGE
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.pairs import Pair
from eval.report.numbers.standings import MIN_KL, Standing, Standings
from eval.report.sections.kinds import kind_of

MANY_ARMS = 6  # tables that grow with the square of the arms are folded beyond
SEVERAL_ARMS = 3  # beyond, only the leading comparison's pairs are open

_TITLES = {"end": "At the end of training", "cost": "At equal total cost", "kl": "At matched KL"}


def section(view: Evaluations, found: Standings, lead: Standing) -> Section:
    """Heat map and table of win rates, then every pair of arms in each comparison, the leading one first."""
    rates = tables.win_rates(view)
    blocks: list[Block] = []
    if len(view.arms) > 1 and rates:
        caption = (
            "Share of the row's responses to held-out prompts that the judge prefers to the column's, to the same prompt with the "
            "same random numbers and seed, ties half; mean over seeds. Purple: preferred more often than not; grey, with ±: not "
            "decided, as the 95% interval over seeds has 0.5 in it. Without an interval, as of one seed, a colour is the number alone."
        )
        figure = figures.win_rates(figures.matrix(rates, view.arms), figures.undecided(rates, view.arms))
        blocks += [
            Picture("win-rates", figure, caption, "Heat map of win rates between arms"),
            _win_table(view, rates),
        ]
    elif not rates:
        blocks.append(Text("No win rates were measured."))
    if len(view.arms) > 1:
        blocks += _comparisons(view, found, lead)
    else:
        blocks.append(Text("There is one arm: no pair to compare."))
    return Section("arms", "The arms against each other", tuple(blocks))


def _win_table(view: Evaluations, rates: dict[tuple[str, str], stats.Estimate]) -> Table:
    names = [BASE, *view.arms]
    rows: list[Row] = []
    for row in names:
        cells = [rates.get((row, column)) for column in names]
        shown = [Cell(*fmt.with_width(estimate, 3)) if estimate else Cell("") for estimate in cells]
        rows.append([Cell(row, arm=row), *shown])
    heads = [Column(f"over {name}") for name in names]
    caption = "The same numbers, ± half the width of the 95% t interval over seeds."
    folded = "The same numbers with their intervals" if len(names) > MANY_ARMS else ""
    return table(["preferred", *heads], rows, caption, folded=folded)


def _comparisons(view: Evaluations, found: Standings, lead: Standing) -> list[Block]:
    if not found.end.known:
        return [Text("No two arms finished the same seed, so no pair of arms can be compared.")]
    rest = [standing for standing in (found.end, found.cost, found.kl) if standing is not lead]
    blocks: list[Block] = [Text(_HOW)]
    decimals = view.judge_decimals
    if found.cost.known:
        blocks.append(_by_arm(found, decimals))
    for standing in (lead, *rest):
        limit = MANY_ARMS if standing is lead else SEVERAL_ARMS
        blocks.append(_pair_table(standing, decimals, folded=len(view.arms) > limit))
    return blocks


_HOW = (
    "Arms are compared where training ended, at equal total cost (on straight lines between an arm's own evaluations), and at "
    "matched KL (on lines straight in √KL). All differences are paired: the same seeds, the same prompts. An interval is Student's t for "
    "its pair alone; p is the paired t-test's, corrected for all pairs of a table by Holm's method. Probability of improvement: that a "
    "run of the higher arm beats a run of the lower, over all pairs of seeds. Effect: the mean difference divided by the standard "
    "deviation of the paired differences (Hedges' g). “Not told apart” is not “equal”."
)


def _by_arm(found: Standings, decimals: int) -> Table:
    """Every arm's mean at its own end and at equal total cost."""
    rows: list[Row] = []
    for arm in found.end.ranking:
        own = [list(standing.values.get(arm, {}).values()) for standing in (found.end, found.cost)]
        cells = [Cell(*fmt.with_width(stats.mean_interval(values), decimals)) for values in own]
        reading = found.cost.readings.get(arm)
        rows.append([Cell(arm, arm=arm), *cells, _share(reading.spent if reading else math.nan)])
    heads: Heads = [
        "arm",
        Column("at the end of training"),
        Column("at equal total cost"),
        Column("budget spent there"),
    ]
    caption = (
        f"Mean over seeds, ± half the width of its 95% t interval. Equal total cost is {fmt.compact(found.cost.cost)} FLOPs, the most "
        "that every finished run reached, preparation included; the budget is of training alone."
    )
    return table(heads, rows, caption + _unprepared(found.cost), fmt.label(JUDGE).capitalize())


def _unprepared(standing: Standing) -> str:
    if not standing.unprepared:
        return ""
    return f" {fmt.listing(standing.unprepared)}: no value, for preparation alone costs more."


def _pair_table(standing: Standing, decimals: int, folded: bool) -> Table | Text:
    title = _TITLES[standing.kind]
    if not standing.known:
        return Text(_why_empty(standing), label=title)
    ordered = sorted(standing.known, key=lambda pair: (math.isnan(pair.p_holm), pair.p_holm))
    at_kl = standing.kind == "kl"
    rows = [_pair_row(standing, pair, decimals) for pair in ordered]
    heads: Heads = [
        "higher",
        "lower",
        Column("difference", "95% interval"),
        Column("p", "Holm"),
        Column("probability of improvement"),
        Column("effect", "g"),
        *([Column("KL", "nats, training done")] if at_kl else []),
        Column("seeds"),
        "verdict at 5%",
    ]
    return table(
        heads,
        rows,
        _caption(at_kl, [arm for pair in ordered for arm in pair.rough]),
        f"{title}: differences in {fmt.label(JUDGE)}",
        f"All {len(rows)} pairs, the clearest first" if folded else "",
    )


def _pair_row(standing: Standing, pair: Pair, decimals: int) -> Row:
    difference = Cell(*fmt.with_interval(pair.difference, decimals, signed=True))
    trained = ", ".join(_share(pair.trained.get(arm, math.nan)) for arm in (pair.first, pair.second))
    return [
        Cell(pair.first, arm=pair.first), Cell(pair.second, arm=pair.second), difference, fmt.p_value(pair.p_holm),
        fmt.number(pair.improvement, 2), fmt.number(pair.effect, 1, signed=True),
        *([Cell(fmt.number(pair.kl, 2), trained)] if standing.kind == "kl" else []), str(pair.difference.n), _at_5(standing, pair),
    ]  # fmt: skip


def _share(share: float) -> str:
    return fmt.MISSING if math.isnan(share) else fmt.percent(share)


def _at_5(standing: Standing, pair: Pair) -> str:
    if pair.rough:
        return "not claimed"
    if pair.told_apart:
        return "told apart"
    if pair.difference.n == 1:
        return "one seed"
    if kind_of(standing, pair) == "equal":
        return "equal"
    return "not told apart" if pair.difference.has_interval else "no interval"


def _caption(at_kl: bool, rough: Sequence[str]) -> str:
    parts = []
    if at_kl:
        parts.append(
            "Each pair at the smallest KL at which one of their common runs ended, interpolated linearly in √KL between evaluations; if a "
            "path crosses that KL more than once, the last crossing counts. An arm that ends farther from the base crosses it before "
            "its training is done (below the KL: the share done, of the higher and the lower arm, mean over seeds), so arms whose β lets them end at similar KL tell more."
        )
    if rough:
        bent = (
            ", or where the pair would be told apart on a line in KL and not in √KL, or the other way round"
        )
        parts.append(
            "An arm is read roughly where its value lies between the base and its first evaluation, where a straight line is a "
            f"guess{bent if at_kl else ''}: nothing is claimed of such a pair. Read roughly here: {fmt.listing(list(dict.fromkeys(rough)))}."
        )
    return " ".join(parts)


def _why_empty(standing: Standing) -> str:
    if standing.unprepared:
        return f"Nothing to compare.{_unprepared(standing)}"
    if standing.unmoved:
        return (
            f"Nothing to compare: {fmt.listing(standing.unmoved)} stayed within {MIN_KL} nats of the base in some run, or came back there, "
            "where no two policies can differ by much."
        )
    what = "total cost" if standing.kind == "cost" else "KL"
    return (
        f"Nothing to compare: no two arms have {what} and {fmt.label(JUDGE)} along the way for the same seed."
    )
