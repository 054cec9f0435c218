"""The figures of outcomes. Frames in, a matplotlib Figure out; the caller saves. Draw inside `theme.drawing()`.

`paths` is `frames.Evaluations.paths`: one row an evaluation of one run, one column a metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from eval import format as fmt
from eval import stats
from eval.report.figures import axes, theme
from eval.report.figures.theme import Style
from eval.report.inputs import BASE, JUDGE, PROXY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Look = Mapping[str, Style]
Base = Mapping[str, float]
Rates = Mapping[tuple[str, str], stats.Estimate]  # (row, column) → share of responses
UNDECIDED = "#e6e8ec"


def proxy_against_judge(paths: DataFrame, look: Look, base: Base) -> Figure:
    """The path of training in the plane of proxy (across) and judge (up)."""
    groups = theme.panels(look)
    width = 6.4 if len(groups) == 1 else axes.WIDTH
    figure, table = axes.grid(
        1, len(groups), (width, 4.3 if len(groups) == 1 else 3.6), sharex=True, sharey=True
    )
    for ax, arms in zip(table[0], groups, strict=True):
        axes.draw_paths(ax, paths, PROXY, JUDGE, look, arms)
        ax.plot(base.get(PROXY, math.nan), base.get(JUDGE, math.nan), linestyle="none", **axes.BASE_POINT)
        ax.set_xlabel(fmt.titled(PROXY))
        ax.set_ylabel(fmt.titled(JUDGE) if ax is table[0][0] else "")
        axes.plain_ticks(ax.xaxis)
        axes.plain_ticks(ax.yaxis)
    axes.legend(figure, look, base="point", failed=axes.any_failed(paths))
    return figure


def learning_curves(paths: DataFrame, look: Look, base: Base) -> Figure:
    """Judge reward against updates, completions, FLOPs and seconds; kinds of spending that nobody measured are left out."""
    kinds = [kind for kind in ("updates", "completions", "flops", "seconds") if paths[kind].notna().any()]
    groups = theme.panels(look)
    shape = (math.ceil(len(kinds) / 2), 2) if len(groups) == 1 else (len(kinds), len(groups))
    figure, table = axes.grid(*shape, (axes.WIDTH, 2.6 * shape[0] + 0.6), sharey=True)
    cells = [ax for row in table for ax in row]
    wanted = [(kind, arms) for kind in kinds for arms in groups]
    for ax, (kind, arms) in zip(cells, wanted, strict=False):
        axes.draw_paths(ax, paths, kind, JUDGE, look, arms)
        _bands(ax, paths, kind, JUDGE, look, arms)
        axes.base_line(ax, base.get(JUDGE))
        axes.spending_axis(ax, kind, paths.groupby(["arm", "seed"])[kind].max())
        axes.plain_ticks(ax.yaxis)
        ax.set_ylabel(fmt.titled(JUDGE) if ax in [row[0] for row in table] else "")
    for ax in cells[len(wanted) :]:
        ax.remove()
    axes.legend(figure, look, base="line", failed=axes.any_failed(paths))
    return figure


def every_seed(ends: DataFrame, look: Look, base: Base, metrics: Sequence[str]) -> Figure:
    """One row an arm, one panel a metric: every run's end, the mean of finished runs and its 95% t interval."""
    height = 1.3 + max(len(look), 2) * (0.46 if len(look) <= 6 else 0.36)
    figure, table = axes.grid(1, len(metrics), (axes.WIDTH, height), sharey=True)
    seeds = sorted(ends["seed"].unique())
    for ax, metric in zip(table[0], metrics, strict=True):
        for row, (arm, style) in enumerate(look.items()):
            _arm_row(ax, ends[ends["arm"] == arm], metric, style, row, seeds)
        _limits(ax, ends[metric].tolist())
        axes.base_line(ax, base.get(metric), vertical=True)
        ax.set_xlabel(fmt.titled(metric))
        axes.plain_ticks(ax.xaxis)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    first = table[0][0]
    first.set_yticks(range(len(look)), theme.names(look), color=theme.INK)
    first.set_ylim(len(look) - 0.45, -0.55)
    return figure


def win_rates(matrix: DataFrame, undecided: DataFrame) -> Figure:
    """Heat map of a square frame (arms × arms): how often the row's response is preferred to the column's; grey where
    `undecided` is true, whatever the number."""
    import seaborn

    n = len(matrix)
    size = (min(axes.WIDTH, 2.6 + 0.72 * n), 1.5 + min(0.5, 4.6 / n + 0.06) * n + 0.4)
    figure, [[ax]] = axes.grid(1, 1, size)
    names = theme.names(matrix.index, 22)
    seaborn.heatmap(
        matrix.to_numpy(), annot=True, fmt=".2f", cmap="PuOr", vmin=0, vmax=1, center=0.5, linewidths=1.5,
        linecolor="white", xticklabels=names, yticklabels=names, annot_kws={"size": 8.5 if n <= 9 else 7.5}, ax=ax,
        cbar_kws={"label": "share of responses", "shrink": 0.8, "ticks": [0, 0.25, 0.5, 0.75, 1]},
    )  # fmt: skip
    _in_grey(ax, undecided)
    ax.set_ylabel("preferred")
    ax.set_xlabel("over")
    ax.grid(visible=False)
    ax.tick_params(length=0, labelcolor=theme.INK)
    ax.tick_params(axis="x", rotation=0 if max(map(len, names)) * n < 62 else 40)
    ax.tick_params(axis="y", rotation=0)
    for text in ax.get_xticklabels() if max(map(len, names)) * n >= 62 else []:
        text.set_horizontalalignment("right")
        text.set_rotation_mode("anchor")
    return figure


def _in_grey(ax: Axes, undecided: DataFrame) -> None:
    from matplotlib.patches import Rectangle

    for row, column in zip(*undecided.to_numpy().nonzero(), strict=True):
        ax.add_patch(Rectangle((column, row), 1, 1, facecolor=UNDECIDED, edgecolor="white", linewidth=1.5))
        for text in ax.texts:
            if text.get_position() == (column + 0.5, row + 0.5):
                text.set(text=f"{text.get_text()} ±", color=theme.MUTED)


def _arm_row(ax: Axes, rows: DataFrame, metric: str, style: Style, row: int, seeds: Sequence[int]) -> None:
    spread = 0.5 / max(len(seeds), 1)
    for seed, value, finished in rows[["seed", metric, "finished"]].itertuples(index=False):
        height = row + (seeds.index(seed) - (len(seeds) - 1) / 2) * spread
        look = axes.marker(style, 5.5, alpha=0.75) if finished else {"marker": "x", "color": style.colour}
        ax.plot(value, height, **look, zorder=4)
    estimate = stats.mean_interval(rows.loc[rows["finished"], metric].dropna().to_numpy())
    ax.plot([estimate.low, estimate.high], [row, row], color=style.colour, linewidth=1.6, zorder=3)
    ax.plot([estimate.mean] * 2, [row - 0.36, row + 0.36], color=style.colour, linewidth=2.4, zorder=3)
    ax.axhline(row + 0.5, color="#eef0f3", linewidth=0.8, zorder=1)


def _limits(ax: Axes, values: Sequence[float]) -> None:
    """Keep the seeds readable: an interval of two seeds may be 13 times wider than they are, and is then cut off."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    low, high = min(finite), max(finite)
    room = (high - low) or abs(high) or 1.0
    left, right = ax.get_xlim()
    ax.set_xlim(max(left, low - room), min(right, high + room))


def _bands(ax: Axes, paths: DataFrame, x: str, y: str, look: Look, arms: Sequence[str]) -> None:
    """t intervals along the mean, from five seeds on; with fewer they cover the figure and the lines say more."""
    for arm in arms:
        rows = paths[(paths["arm"] == arm) & paths["finished"]].dropna(subset=[x, y])
        if rows["seed"].nunique() >= 5:
            mean = axes.mean_path(rows, x, y)
            ax.fill_between(
                mean["x"], mean["low"], mean["high"], color=look[arm].colour, alpha=0.16, linewidth=0
            )


def matrix(rates: Rates, arms: Iterable[str]) -> DataFrame:
    """Mean win rates as a square frame, the base first, nan on the diagonal and where nothing was measured."""
    import pandas

    names = [BASE, *arms]
    cells = [[rates[a, b].mean if (a, b) in rates else math.nan for b in names] for a in names]
    return pandas.DataFrame(cells, index=names, columns=names, dtype=float)


def undecided(rates: Rates, arms: Iterable[str]) -> DataFrame:
    """As `matrix`: where the interval over seeds has one half in it, so that neither is known to be preferred."""
    import pandas

    names = [BASE, *arms]
    cells = [[(a, b) in rates and rates[a, b].low <= 0.5 <= rates[a, b].high for b in names] for a in names]
    return pandas.DataFrame(cells, index=names, columns=names, dtype=bool)
